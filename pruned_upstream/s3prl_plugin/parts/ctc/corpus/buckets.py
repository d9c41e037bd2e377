"""Utterances of similar length in one batch: what both corpus readers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from torch.utils.data import Dataset

Utterance: TypeAlias = tuple[str, list[int]]


class BucketedUtterances(Dataset):
    """Utterances by falling number of tokens, so that neighbours are alike.

    With `bucket_size` > 1 an item is the list of that many neighbours that starts at the index: the buckets slide,
    every utterance can begin one, and an epoch has as many buckets as utterances. The last buckets are shifted back
    to be full. So does s3prl (downstream/ctc/corpus), and the official results rest on it.
    """

    def __init__(self, utterances: Iterable[Utterance], bucket_size: int, *, ascending: bool = False) -> None:
        self.utterances = sorted(utterances, key=lambda utterance: len(utterance[1]), reverse=not ascending)
        self.bucket_size = bucket_size

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Utterance | list[Utterance]:
        if self.bucket_size == 1:
            return self.utterances[index]
        first = max(0, min(index, len(self) - self.bucket_size))
        return self.utterances[first : first + self.bucket_size]
