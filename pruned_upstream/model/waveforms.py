"""What may be given as audio: tensors, arrays, lists, files; one waveform or many, with or without their lengths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, PrunedUpstreamError
from ..extras import remedy
from ..parsing import printable
from .config import SAMPLE_RATE

MOST_CHANNELS = 8  # a matrix with no more columns than this, and fewer than rows, has its channels last
# integers as WAV files have them: what full scale is, and where zero lies
SCALES = {torch.int16: (1 << 15, 0), torch.int32: (1 << 31, 0), torch.uint8: (1 << 7, 1 << 7)}


def as_waveforms(audio: Any, lengths: Sequence[int] | Tensor | None = None) -> list[Tensor]:
    """One tensor (samples,) for each utterance, in single or double precision, full scale at 1.

    Args:
        audio: one waveform (samples,), a batch (B, samples), or a sequence of waveforms, each (samples,) or
            (1, samples); as tensors, numpy arrays or lists of numbers. Instead of a waveform, the name of an audio
            file. Floating point is taken as it is; int16, int32 and uint8 are scaled as WAV files mean them.
        lengths: samples of each utterance of a batch (B, samples), which is padded behind them.

    Raises:
        DataError: a waveform is empty, holds NaN or infinity, has several channels, is of another sampling rate (a
            file) or of a type that says no scale; or `lengths` do not fit. The message names the waveform.
    """
    if is_one(audio):
        if lengths is not None:
            raise DataError("lengths go with a batch (B, samples); this is one waveform")
        return _checked([_waveform(audio, "the waveform")], ["the waveform"])
    if isinstance(audio, (Tensor, np.ndarray)):
        waveforms = _rows(_tensor(audio, "the batch"), lengths)
    elif isinstance(audio, Sequence):
        if lengths is not None:
            raise DataError("lengths go with a batch (B, samples); waveforms in a list have their own")
        waveforms = [_waveform(item, f"waveform {number}") for number, item in enumerate(audio)]
    else:
        raise DataError(f"{type(audio).__name__} is not audio; give tensors, arrays, lists of them or file names")
    if not waveforms:
        raise DataError("there is no waveform to compute; give at least one")
    return _checked(waveforms, [f"waveform {number}" for number in range(len(waveforms))])


def read_audio(path: str | os.PathLike) -> Tensor:
    """The samples (N,) of a mono file at 16 kHz. Raises DataError: it is missing, damaged or of another kind."""
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise PrunedUpstreamError(f"{path} cannot be read: {remedy('soundfile')}") from error
    if not Path(path).is_file():
        what = "is a folder" if os.path.isdir(path) else "is not there"
        raise DataError(f"{printable(str(path)) or 'the empty name'} {what}; give the name of an audio file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} is no audio that can be read ({error}); convert it to WAV or FLAC") from error
    if rate != SAMPLE_RATE:
        raise DataError(f"{path} has {rate} samples per second and models take {SAMPLE_RATE}; resample it first")
    return _waveform(torch.from_numpy(samples.T.copy()), str(path))


def is_one(audio: Any) -> bool:
    """Whether it is one waveform, or the name of one, where several may be given."""
    if isinstance(audio, (str, os.PathLike)):
        return True
    if isinstance(audio, (Tensor, np.ndarray)):
        return audio.ndim <= 1
    return isinstance(audio, Sequence) and len(audio) > 0 and all(isinstance(x, (int, float, np.number)) for x in audio)


def is_empty(audio: Any) -> bool:
    """Whether it is a tensor, an array or a list of no samples."""
    if isinstance(audio, (Tensor, np.ndarray)):
        return audio.shape[-1:] == (0,)
    return isinstance(audio, Sequence) and not isinstance(audio, (str, bytes)) and not len(audio)


def _waveform(item: Any, name: str) -> Tensor:
    """One waveform (samples,) from whatever one can be."""
    if isinstance(item, (str, os.PathLike)):
        return read_audio(item)
    if isinstance(item, Real):
        raise DataError(f"{name} is the number {item}; give waveforms alone, at 16 kHz")
    waveform = _tensor(item, name)
    if waveform.ndim == 2 and 1 in waveform.shape:
        waveform = waveform.flatten()
    if waveform.ndim == 2:
        raise DataError(
            f"{name} has the shape {tuple(waveform.shape)}, which looks like {min(waveform.shape)} channels; give one "
            "of them, or their mean"
        )
    if waveform.ndim != 1:
        raise DataError(f"{name} has the shape {tuple(waveform.shape)}; it must be (samples,)")
    return waveform


def as_lengths(lengths: Any, count: int) -> Tensor:
    """Samples of each of `count` waveforms, (count,). Raises DataError: they are not so many whole numbers."""
    try:
        given = torch.as_tensor(lengths)
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole or given.shape != (count,):
        raise DataError(
            f"lengths must be {count} whole numbers, one for each waveform; they are {printable(str(lengths))}"
        )
    return given if given.dtype == torch.int64 else given.long()


def _rows(batch: Tensor, lengths: Sequence[int] | Tensor | None) -> list[Tensor]:
    if batch.ndim != 2:
        raise DataError(f"the batch has the shape {tuple(batch.shape)}; it must be (B, samples)")
    count, samples = batch.shape
    if 0 < samples <= MOST_CHANNELS and samples < count:
        raise DataError(
            f"the batch has the shape {tuple(batch.shape)}, which looks like (samples, channels); give (B, samples)"
        )
    if lengths is None:
        return list(batch)
    given = as_lengths(lengths, count).tolist()
    for number, length in enumerate(given):
        if not 0 <= length <= samples:
            raise DataError(f"waveform {number} has {samples} samples, of which lengths claims {length}")
    return [row[:length] for row, length in zip(batch, given, strict=True)]


def _tensor(item: Any, name: str) -> Tensor:
    if np.ma.isMaskedArray(item):
        raise DataError(f"{name} has masked samples; fill them, or leave them out")
    if isinstance(item, np.ndarray):  # of any strides and byte order, and perhaps read-only
        item = np.array(item, dtype=item.dtype.newbyteorder("="), order="C")
    try:
        tensor = torch.as_tensor(item)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} is {type(item).__name__}, not audio ({error})") from error
    if tensor.layout != torch.strided or tensor.is_nested:
        raise DataError(f"{name} is a {'nested' if tensor.is_nested else 'sparse'} tensor; give a dense one")
    if without_values(tensor):
        raise DataError(f"{name} is a tensor without values (meta); give samples")
    if tensor.is_floating_point():
        return tensor if tensor.dtype == torch.float64 else tensor.float()
    if tensor.dtype not in SCALES:
        raise DataError(
            f"{name} is of type {tensor.dtype}, which says no scale; give floating point numbers between -1 and 1, or "
            "int16 as in WAV files"
        )
    scale, zero = SCALES[tensor.dtype]
    exact = tensor.double() if tensor.dtype == torch.int32 else tensor.float()
    return ((exact - zero) / scale).float()


def without_values(tensor: Tensor) -> bool:
    """Whether there is nothing to hear; tests that count what goes to a device say no."""
    return tensor.is_meta


def _checked(waveforms: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    for waveform, name in zip(waveforms, names, strict=True):
        if not len(waveform):
            raise DataError(f"{name} is empty; leave it out")
    device = waveforms[0].device
    # in single precision, for what is beyond it would be infinity there
    finite = torch.stack([torch.isfinite(waveform.float()).all().to(device) for waveform in waveforms])
    if not finite.all():  # asked once for all of them: a GPU is waited for
        name = names[finite.tolist().index(False)]
        raise DataError(
            f"{name} holds NaN, infinity or numbers beyond single precision; mend or leave out the recording"
        )
    return waveforms
