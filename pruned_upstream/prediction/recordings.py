"""Clips as waveforms of one channel at 16 kHz, read as each task's own data set reads its corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import DataError
from ..model.config import SAMPLE_RATE

Reader: TypeAlias = Callable[[Path], Tensor]


def plain(path: Path) -> Tensor:
    """(samples,) of ASR, PR, SF, SID, IC, SD and ER: as recorded; mixed down and resampled where that is needed."""
    import torchaudio

    wav, rate = torchaudio.load(str(path))  # (channels, samples)
    wav = wav.mean(0)
    return wav if rate == SAMPLE_RATE else torchaudio.functional.resample(wav, rate, SAMPLE_RATE)


def searched(path: Path) -> Tensor:
    """(samples,) of QbE, 3 dB softer as its data set has them (s3prl, downstream/quesst14_dtw/dataset.py)."""
    return through(path, [["channels", "1"], ["rate", str(SAMPLE_RATE)], ["gain", "-3.0"]])


def through(path: Path, effects: list[list[str]]) -> Tensor:
    """(samples,) behind a chain of SoX's effects, which would clip what is infinite and drop what is no number."""
    import torchaudio
    from torchaudio.sox_effects import apply_effects_file

    _check_numbers(torchaudio.load(str(path))[0], path)
    wav, _ = apply_effects_file(str(path), effects)
    return wav.squeeze(0)


def read(path: str | Path, reader: Reader) -> Tensor:
    """One clip.

    Raises:
        DataError: it is missing, unreadable, empty, or holds values that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no recording {path}")
    try:
        wav = reader(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from error
    if wav.numel() == 0:
        raise DataError(f"{path} holds no sound that this task listens to")
    _check_numbers(wav, path)
    return wav


def _check_numbers(wav: Tensor, path: Path) -> None:
    if not torch.isfinite(wav).all():
        raise DataError(f"{path} holds samples that are not numbers")
