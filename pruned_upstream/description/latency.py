"""How long a forward pass takes, side by side with the dense encoder.

A comparison, not a benchmark: both encoders run in turn on the same noise, so that what else the machine does hits
both, and the median is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ..model.config import SAMPLE_RATE
from ..model.encoder import Encoder


@dataclass(frozen=True)
class Latency:
    """Median seconds of one utterance at batch 1."""

    utterance_seconds: float
    compact: float
    dense: float

    @property
    def speedup(self) -> float:
        """How many times faster than the dense encoder."""
        return self.dense / self.compact


def compare_with_dense(
    encoder: Encoder,
    *,
    utterance_seconds: Sequence[float],
    repeats: int = 7,
    device: str = "cpu",
) -> list[Latency]:
    """Time `encoder` against its own dense shape with random weights, which time does not depend on.

    Raises:
        ConfigError: there is no such device.
        DataError: an utterance is shorter than the front end's receptive field.
    """
    encoders = [encoder, Encoder(encoder.config.densified())]
    return [
        Latency(seconds, *in_turn(encoders, seconds, repeats=repeats, device=device)) for seconds in utterance_seconds
    ]


def in_turn(
    encoders: Sequence[Encoder], utterance_seconds: float, *, repeats: int = 7, device: str = "cpu"
) -> list[float]:
    """Median seconds that each encoder takes for the same noise at batch 1; all of them run in turn, `repeats` times.

    Raises:
        ConfigError: there is no such device.
        DataError: the utterance is shorter than the front end's receptive field.
    """
    _check(device)
    encoders = [encoder.to(device).eval() for encoder in encoders]
    waveform = torch.randn(1, round(utterance_seconds * SAMPLE_RATE), device=device)
    taken: list[list[float]] = [[] for _ in encoders]
    for repeat in range(repeats + 1):
        for times, encoder in zip(taken, encoders, strict=True):
            elapsed = _forward(encoder, waveform)
            if repeat:  # the first pass derives weights and warms up
                times.append(elapsed)
    return [statistics.median(times) for times in taken]


@torch.no_grad()
def _forward(encoder: Encoder, waveform: torch.Tensor) -> float:
    """Of the processor's time with one thread on a CPU, so that what else the machine does is left out."""
    one_thread = waveform.device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if one_thread else time.perf_counter
    _wait(waveform.device)
    start = now()
    encoder(waveform)
    _wait(waveform.device)
    return now() - start


def _check(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(f"the device '{device}' cannot be used: {str(error).splitlines()[0]}") from error


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
