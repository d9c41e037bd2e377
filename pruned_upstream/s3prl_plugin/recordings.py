"""Recordings that s3prl takes as they are: one that is not 16 kHz and mono, or no audio, is named.

Keyword spotting, query by example and speaker verification mix and resample what they read; the other tasks do not.
There a stereo file becomes one of twice the length, one of 8 kHz is taken for fast speech, and what breaks, breaks far
from the file, or not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import after_import
from ..errors import DataError
from ..model.config import SAMPLE_RATE

MIXED_AND_RESAMPLED = ("ks", "qbe", "sv")
"""Tasks that read through `sox_effects`."""
_READERS = {
    "asr.dataset": ("torchaudio", "load"),
    "ctc.data": ("torchaudio", "load"),
    "voxceleb1.dataset": ("torchaudio", "load"),
    "fluent_commands.dataset": ("torchaudio", "load"),
    "emotion.dataset": ("torchaudio", "load"),
    "diarization.dataset": ("sf", "read"),
}
"""Module below `s3prl.downstream` -> the library that it reads with, by the name it has there, and the function."""


def guard() -> None:
    """Let s3prl's readers check what they have read."""
    for module, (library, function) in _READERS.items():
        after_import.after(f"s3prl.downstream.{module}", functools.partial(_exchange, library, function))


def wrong_format(where: Any, rate: int, channels: int) -> str | None:
    """What is wrong with the recording, or None."""
    if (rate, channels) == (SAMPLE_RATE, 1):
        return None
    return (
        f"{where} has {rate} Hz and {channels} channel{'s' * (channels != 1)}; s3prl takes this task's recordings as "
        f"they are, and they must be {SAMPLE_RATE} Hz and mono: convert it"
    )


class _Library:
    """A library one of whose functions is another."""

    def __init__(self, library: Any, name: str, function: Callable[..., Any]) -> None:
        self._library = library
        setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def _exchange(library: str, function: str, module: ModuleType) -> None:
    original = getattr(module, library)
    setattr(module, library, _Library(original, function, _checked(getattr(original, function))))


def _checked(read: Callable[..., tuple[Any, int]]) -> Callable[..., tuple[Any, int]]:
    @functools.wraps(read)
    def read_and_check(file: Any, *args: Any, **kwargs: Any) -> tuple[Any, int]:
        where = file if isinstance(file, str) else "what a command of wav.scp puts out"
        try:
            samples, rate = read(file, *args, **kwargs)
        except (OSError, RuntimeError) as error:  # of soundfile and of every torchaudio
            raise DataError(f"{where} cannot be read as audio ({error}); replace the file, or leave it out") from error
        channels = min(samples.shape) if samples.ndim > 1 else 1  # torchaudio has them first, soundfile last
        if fault := wrong_format(where, rate, channels):
            raise DataError(fault)
        return samples, rate

    return read_and_check
