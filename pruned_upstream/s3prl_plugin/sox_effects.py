"""`torchaudio.sox_effects` as far as SUPERB uses it: channels, rate, gain and silence, without libsox.

torchaudio 2.9 removed the module; before, it needed libsox on the machine. Keyword spotting, query by example
and speaker verification read their audio through it. Each effect follows the program of the same name in SoX
14.4.2 (chirlu/sox, src/{gain,rate,silence}.c); resampling is soxr, which is SoX's own rate effect as a library.

The functions live in a module of their own because joblib's workers import them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from . import audio_io

LARGEST_SAMPLE = 1 - 2.0**-31  # SoX computes in signed 32-bit integers
SILENCE_WINDOW = 50  # the loudness is taken over 1/50 s


def apply_effects_file(
    path: str | Path, effects: Sequence[Sequence[str]], normalize: bool = True, channels_first: bool = True
) -> tuple[Tensor, int]:
    """Read a file and send it through a chain of effects.

    Args:
        effects: one list a link, as on SoX's command line: `["gain", "-3.0"]`.

    Returns:
        (channels, time) samples in float32, and their rate.

    Raises:
        DataError: the file cannot be read, or an effect is not one of the four.
    """
    return apply_effects_tensor(*audio_io.load(path), effects, channels_first)


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> tuple[Tensor, int]:
    """Send (channels, time) samples through a chain of effects; see `apply_effects_file`."""
    samples = tensor.double().numpy()
    for name, *arguments in effects:
        if name not in EFFECTS:
            raise DataError(
                f"the sox effect '{name}' is not built in (these are: {', '.join(EFFECTS)}); "
                "a torchaudio below 2.9 with libsox on the machine has it"
            )
        samples, sample_rate = EFFECTS[name](samples, sample_rate, *arguments)
    wav = torch.from_numpy(np.ascontiguousarray(samples)).float()
    return (wav if channels_first else wav.T), sample_rate


def channels(samples: np.ndarray, rate: int, count: str) -> tuple[np.ndarray, int]:
    """Mix down to one channel, each with equal weight."""
    if int(count) == samples.shape[0]:
        return samples, rate
    if int(count) != 1:
        raise DataError(f"channels {count}: only mixing down to 1 channel is built in")
    return samples.mean(axis=0, keepdims=True), rate


def resample(samples: np.ndarray, rate: int, target: str) -> tuple[np.ndarray, int]:
    """SoX's default quality, high."""
    import soxr

    if int(target) == rate:
        return samples, rate
    return _clip(soxr.resample(samples.T, rate, int(target), quality="HQ").T), int(target)


def gain(samples: np.ndarray, rate: int, decibel: str) -> tuple[np.ndarray, int]:
    """sox's `gain`: louder by so many decibels, clipped."""
    return _clip(samples * 10 ** (float(decibel) / 20)), rate


def silence(
    samples: np.ndarray, rate: int, periods: str, start: str, above: str, stop_periods: str, stop: str, below: str
) -> tuple[np.ndarray, int]:
    """Cut silence from the beginning, and every stretch of at least `stop` seconds behind it.

    Args:
        periods, start, above: sound begins with `start` seconds louder than `above` percent.
        stop_periods, stop, below: it ends with `stop` seconds softer than `below` percent; a negative number of
            periods starts the search for sound again behind them.

    Raises:
        DataError: other numbers of periods than 1 and -1, several channels, or thresholds that are no percentages.
    """
    if samples.shape[0] != 1 or (periods, stop_periods) != ("1", "-1") or not above[-1] == below[-1] == "%":
        raise DataError("silence is built in for one channel, periods 1 and -1, and thresholds in percent")
    wav = samples[0]
    loud_for, soft_for = round(float(start) * rate), round(float(stop) * rate)
    loud_at, soft_at = (float(threshold[:-1]) / 100 for threshold in (above, below))
    energy = np.concatenate(([0.0], np.cumsum(wav**2)))
    kept, position = [], 0
    while position < len(wav):
        rms = _rms(energy, position, rate // SILENCE_WINDOW)
        begin = _first_run(rms > loud_at, loud_for)
        if begin is None:
            break
        searched = begin + loud_for
        end = _first_run(rms[searched:] <= soft_at, soft_for)
        if end is None:
            kept.append(wav[position + begin :])  # silence shorter than `stop` stays at the end
            break
        kept.append(wav[position + begin : position + searched + end])
        position += searched + end + soft_for
    return np.concatenate(kept or [wav[:0]])[None], rate


EFFECTS: dict[str, Callable[..., tuple[np.ndarray, int]]] = {
    "channels": channels,
    "rate": resample,
    "gain": gain,
    "silence": silence,
}


def _clip(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples, -1.0, LARGEST_SAMPLE)


def _rms(energy: np.ndarray, position: int, window: int) -> np.ndarray:
    """Loudness at each sample from `position` on, over the last `window` samples; none of them before `position`."""
    ends = np.arange(position + 1, len(energy))
    return np.sqrt(np.maximum(energy[ends] - energy[np.maximum(ends - window, position)], 0.0) / window)


def _first_run(true: np.ndarray, length: int) -> int | None:
    """Where the first stretch of `length` true values begins."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], true.view(np.int8), [0]))))
    begins, ends = edges[::2], edges[1::2]
    long_enough = np.flatnonzero(ends - begins >= length)
    return int(begins[long_enough[0]]) if len(long_enough) else None
