"""A large corpus whose first batch does not wait for the headers of all its files.

What a step takes must not depend on how far reading has got. So recordings are numbered as they are listed, usable or
not, and a batch asks for the headers of its own window of lengths alone, while threads read the rest. A recording that
turns out unusable keeps its number, counts as length 0, and is left out when its turn comes. (In a `Corpus`, whose
headers are all known, only usable recordings have numbers; which of the two a run has follows from its recipe and from
how many files there are.)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .corpus import BadRecording, Corpus, Found, Header, Utterance, find_files, measured, read_headers, usable
from .processes import Processes
from .recipe import Data

AT_ONCE = 2_000  # files whose headers are read before anything begins: a fraction of a second
UNKNOWN, UNUSABLE = 0, -1
RATE_BITS = 20


class GrowingCorpus:
    """The recordings of a run from the moment that they are listed.

    Args:
        found: their names.
        min_samples, cache: as `find_corpus` takes them.

    Everything that `Corpus` has is here too; what needs all headers waits for them.
    """

    def __init__(self, found: Found, *, min_samples: int, cache: str | Path | None = None) -> None:
        self.found = found
        self.min_samples = min_samples
        self.cache = cache
        # what is known of each header, in one number, so that it is written at once: frames, then the rate. Loader
        # processes share it
        self.known = torch.zeros(len(found.recordings), dtype=torch.int64).share_memory_()
        self._whole: Corpus | None = None
        self._error: Exception | None = None
        self._reading: threading.Thread | None = threading.Thread(target=self._read_all, daemon=True)
        self._reading.start()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reading": None, "_error": None}

    def __len__(self) -> int:
        return len(self.found.recordings)

    def name(self, number: int) -> str:
        """The recording's path under its source; no header is needed for it."""
        return self.found.recordings[number][1]

    def utterance(self, number: int) -> Utterance:
        """Raises BadRecording, which says why it cannot be used."""
        _, name, path = self.found.recordings[number]
        self._learn([number])
        if header := _header(int(self.known[number])):
            return Utterance(name, path, header)
        (found,) = read_headers([path])
        reason = usable(found, self.min_samples)
        raise BadRecording(reason if isinstance(reason, str) else "it could not be read a moment ago")

    def samples(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Length at 16 kHz of each of these recordings, 0 where it cannot be used: (len(numbers),) int64."""
        self._learn(numbers)
        found = self.known.numpy()[np.asarray(numbers, dtype=np.int64)]
        headers = map(_header, found.tolist())
        return np.array([header.samples if header else 0 for header in headers], dtype=np.int64)

    def _learn(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Read what is not known yet of these."""
        missing = [number for number in map(int, numbers) if self.known[number] == UNKNOWN]
        headers = read_headers([self.found.recordings[number][2] for number in missing])
        for number, header in zip(missing, headers, strict=True):
            self._note(number, header)

    def _note(self, number: int, header: Header | str) -> None:
        header = usable(header, self.min_samples)
        self.known[number] = UNUSABLE if isinstance(header, str) else header.frames << RATE_BITS | header.rate

    def _read_all(self) -> None:
        numbers = {path: number for number, (_, _, path) in enumerate(self.found.recordings)}
        try:
            self._whole = measured(
                self.found,
                min_samples=self.min_samples,
                cache=self.cache,
                hear=lambda path, header: self._note(numbers[path], header),
            )
        except Exception as error:  # is raised where somebody asks for the whole
            self._error = error

    def wait(self) -> None:
        """Until all headers are read."""
        if self._reading is not None:
            self._reading.join()

    @property
    def whole(self) -> Corpus:
        """With all headers read, which is waited for.

        Raises:
            DataError: nothing can be used.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        if self._whole is None:  # in another process than the one that reads
            self._whole = measured(self.found, min_samples=self.min_samples, cache=self.cache)
        return self._whole

    @property
    def utterances(self) -> list[Utterance]:
        """All recordings that can be used; waits for the headers."""
        return self.whole.utterances

    @property
    def hours(self) -> float:
        """Length of all recordings; waits for the headers."""
        return self.whole.hours

    @property
    def skipped(self) -> dict[str, str]:
        """What cannot be used, and why; waits for the headers."""
        return self.whole.skipped

    @property
    def repeated(self) -> list[str]:
        """Recordings that several sources name."""
        return self.found.repeated

    @property
    def left_out(self) -> list[str]:
        """Sets that are not for training."""
        return self.found.left_out

    @property
    def looks_held_out(self) -> dict[str, int]:
        """Recordings of sets that look like test data; waits for the headers."""
        return self.whole.looks_held_out

    @property
    def fingerprint(self) -> str:
        """Of all names and lengths; waits for the headers."""
        return self.whole.fingerprint


def _header(known: int) -> Header | None:
    return None if known == UNUSABLE else Header(known >> RATE_BITS, known & ((1 << RATE_BITS) - 1), channels=1)


def recordings_of(data: Data, processes: Processes, *, min_samples: int, cache: Path) -> Corpus | GrowingCorpus:
    """The training speech of a recipe: all headers read where there are few files, or where batches are cut by
    duration, which depends on all lengths; else growing.

    Several processes read them once, the main one first, so they wait.

    Raises:
        DataError: as `find_corpus`; of a growing corpus where nothing can be used, when all of it is known.
    """
    with processes.main_first():
        found = find_files(data.train)
        if data.batch_seconds is not None or len(found.recordings) <= AT_ONCE:
            return measured(found, min_samples=min_samples, cache=cache)
        corpus = GrowingCorpus(found, min_samples=min_samples, cache=cache)
        if processes.world > 1:
            corpus.wait()
        return corpus
