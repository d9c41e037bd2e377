"""The one class that s3prl takes from catalyst, whose last release (22.4) pip 24.1 and newer refuse to install.

Keyword spotting imports it whether or not several processes train (s3prl, downstream/speech_commands/expert.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

from torch.utils.data import DistributedSampler, Sampler


class DistributedSamplerWrapper(DistributedSampler):
    """Deals what another sampler draws to the processes; catalyst-team/catalyst, catalyst/data/sampler.py.

    Every process must draw the same, that is, start from the same random state.
    """

    def __init__(
        self, sampler: Sampler[int], num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True
    ) -> None:
        places: Any = range(len(cast(Sized, sampler)))  # a data set of which nothing is ever read
        super().__init__(places, num_replicas=num_replicas, rank=rank, shuffle=shuffle)
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        drawn = list(self.sampler)
        return (drawn[position] for position in super().__iter__())
