"""torchaudio's `info`, `load` and `save` as they were until 2.8, on soundfile.

torchaudio 2.9 removed its backends: `load` and `save` need torchcodec and FFmpeg now, `info` is gone. Signatures
and results are those of the torchaudio 2.8 documentation; only what s3prl passes is accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from ..errors import DataError


class AudioMetaData(NamedTuple):
    """What `torchaudio.info` told of a file."""

    sample_rate: int
    num_frames: int
    num_channels: int
    bits_per_sample: int
    encoding: str


# soundfile's subtype -> (bits, encoding) as torchaudio names them; compressed formats have no bits
_SUBTYPES = {
    "PCM_U8": (8, "PCM_U"),
    "PCM_S8": (8, "PCM_S"),
    "PCM_16": (16, "PCM_S"),
    "PCM_24": (24, "PCM_S"),
    "PCM_32": (32, "PCM_S"),
    "FLOAT": (32, "PCM_F"),
    "DOUBLE": (64, "PCM_F"),
    "ULAW": (8, "ULAW"),
    "ALAW": (8, "ALAW"),
}


def info(uri: str | Path) -> AudioMetaData:
    """Raises DataError when the file is missing or no audio."""
    try:
        found = soundfile.info(str(uri))
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(uri, error) from error
    bits, encoding = _SUBTYPES.get(found.subtype, (0, found.format))
    return AudioMetaData(found.samplerate, found.frames, found.channels, bits, encoding)


def load(
    uri: str | Path, frame_offset: int = 0, num_frames: int = -1, normalize: bool = True, channels_first: bool = True
) -> tuple[Tensor, int]:
    """Samples (channels, time) in float32 between -1 and 1, and their rate.

    `normalize` is accepted and, as in torchaudio 2.9, without effect.

    Raises:
        DataError: the file is missing, damaged or no audio.
    """
    try:
        samples, rate = soundfile.read(str(uri), start=frame_offset, frames=num_frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(uri, error) from error
    wav = torch.from_numpy(samples)  # (time, channels)
    return (wav.T.contiguous() if channels_first else wav), rate


def save(uri: str | Path, src: Tensor, sample_rate: int, channels_first: bool = True) -> None:
    """Write (channels, time) samples; a .wav holds them in 32-bit float, as torchaudio did for float tensors."""
    wav = src.T if channels_first else src
    subtype = "FLOAT" if Path(uri).suffix.lower() == ".wav" else None
    soundfile.write(str(uri), wav.detach().cpu().numpy(), sample_rate, subtype=subtype)


def _unreadable(uri: str | Path, error: Exception) -> DataError:
    if not Path(uri).is_file():
        return DataError(f"there is no audio file {uri}; check the data root given to the task")
    return DataError(f"{uri} cannot be read as audio ({error}); replace the file or leave it out of the corpus")
