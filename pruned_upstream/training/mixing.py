"""What WavLM learned with: some recordings are talked over by another of their batch, or by noise.

A stretch of the second recording, at most half as long as the first, is added somewhere in it, so loud that the ratio
of energies is drawn evenly in decibels. Numbers are those of WavLM (Chen et al., IEEE JSTSP 2022; the ranges are read
in NVIDIA/NeMo, `WavLMAugmentation`). Teacher and student hear the same mixture, so that nothing has to be known of who
is the first.

Everything follows from (seed, epoch, recording), as crops do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SPEECH_DECIBELS = (-5.0, 5.0)  # energy of the first recording over that of the second
NOISE_DECIBELS = (-5.0, 20.0)
LONGEST = 0.5  # of the stretch, as a share of the first recording
MIXING = 5  # sets these draws apart from those of crops


class Drawn(NamedTuple):
    """What is mixed into a recording.

    noise: whether it is noise; else another recording of the batch.
    second: a share of the way through the candidates.
    decibels: of the first over the second.
    stretch, place, start: samples of the stretch, and where it begins in the first and in the second, as shares.
    """

    noise: bool
    second: float
    decibels: float
    stretch: float
    place: float
    start: float


def draw(seed: int, epoch: int, utterance: int, *, mix: float, noise_share: float) -> Drawn | None:
    """Whether, and how, an epoch mixes something into a recording.

    Args:
        mix: share of recordings that are mixed.
        noise_share: of those, how many with noise.
    """
    rng = np.random.default_rng([seed, epoch, utterance, MIXING])
    is_mixed, is_noise, second, decibels, stretch, place, start = rng.random(7).tolist()
    if is_mixed >= mix:
        return None
    noise = is_noise < noise_share
    low, high = NOISE_DECIBELS if noise else SPEECH_DECIBELS
    return Drawn(noise, second, low + decibels * (high - low), stretch * LONGEST, place, start)


def mixed(first: Tensor, drawn: Drawn, samples: int, read: Callable[[int, int], Tensor]) -> Tensor:
    """The first recording, (S,), with a stretch of the second in it.

    Args:
        samples: of the second recording.
        read: (start, samples) -> that stretch of it.
    """
    length = min(round(drawn.stretch * len(first)), samples)
    if length < 1:
        return first
    second = read(round(drawn.start * (samples - length)), length)
    energies = [torch.mean(wav.double().square()) for wav in (first, second)]
    if not min(energies) > 0:  # silence cannot be made as loud as anything
        return first
    gain = (energies[0] / energies[1] / 10 ** (drawn.decibels / 10)).sqrt().float()
    place = round(drawn.place * (len(first) - length))
    result = first.clone()
    result[place : place + length] += gain * second
    return result
