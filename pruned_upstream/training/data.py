"""From a corpus to batches: which recordings meet in a step, which stretch of each, and who computes what.

Nothing here remembers anything. The recordings of step t follow from (seed, epoch, place in the epoch), the crop of
a recording from (seed, epoch, recording), the noise of a micro-batch from (seed, step, its number): a resumed run
goes on at step t, and neither the number of loader processes nor that of training processes changes a batch.
"""

from __future__ import annotations

import os
import signal
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..machine import ENDING, blocked
from ..model.config import SAMPLE_RATE, EncoderConfig
from ..model.encoder import Encoder
from .corpus import HEADERS_FILE, BadRecording, Corpus, find_corpus
from .growing import GrowingCorpus, recordings_of
from .mixing import draw, mixed
from .processes import Processes
from .recipe import Data
from .reports import named_noise

STOPS = (signal.SIGINT, *ENDING, signal.SIGUSR2)  # what terminals, schedulers and launchers send


@dataclass(frozen=True)
class Batch:
    """The part of a step that goes through the model at once.

    wavs: waveforms (samples,) at 16 kHz.
    pad_to: samples of the whole step's longest crop, to which every part pads: the group norm of the front end
        takes its statistics over the padding too, and parts of one batch must agree on them.
    utterances, starts: number in the corpus and first sample of each waveform, for objectives with labels.
    seed: for torch's RNG (dropout, masks): the same whichever process computes this part.
    skipped: recordings that turned out unusable when they were read, with the reason.
    """

    wavs: list[Tensor]
    pad_to: int
    utterances: list[int]
    starts: list[int]
    seed: int
    skipped: dict[str, str]


class BatchPlan:
    """Which recordings each step takes.

    An epoch shuffles the corpus, sorts windows of `bucket` batches by length, so that little is padded, cuts them
    into batches and shuffles those. The last batch of an epoch may be short; nothing is left out.

    Args:
        lengths: samples of each recording's crop; or a function that tells those of some recordings, which is asked
            for no more than a batch needs. Batches of so many samples need all.
        count: recordings, where `lengths` is a function.
        utterances, samples: size of a batch: a number of recordings, or of samples, padding included; one is given.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Callable[[np.ndarray], np.ndarray],
        *,
        seed: int,
        count: int | None = None,
        utterances: int | None = None,
        samples: int | None = None,
        bucket: int = 1,
    ) -> None:
        if (utterances is None) == (samples is None):
            raise ValueError("a batch holds a number of utterances or a number of samples")
        self.lengths_of = lengths if callable(lengths) else np.asarray(lengths).__getitem__
        self.count = len(cast(Sequence[int], lengths)) if count is None else count
        self.seed = seed
        self.utterances = utterances
        self.samples = samples
        self.bucket = bucket
        self._ends: list[int] = []  # batches up to the end of each epoch seen so far
        self._latest: tuple[int, Epoch] | None = None

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, place in the epoch) of a step."""
        while not self._ends or self._ends[-1] <= step:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.epoch(len(self._ends))))
        epoch = bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def epoch(self, number: int) -> Epoch:
        """The batches of an epoch: numbers of recordings, longest first."""
        if self._latest is None or self._latest[0] != number:
            self._latest = number, Epoch(self, number)
        return self._latest[1]


class Epoch(Sequence[list[int]]):
    """The batches of an epoch. A window is sorted and cut when one of its batches is asked for: with batches of so many
    recordings, how many a window holds is known without."""

    def __init__(self, plan: BatchPlan, number: int) -> None:
        rng = np.random.default_rng([plan.seed, number])
        order = rng.permutation(plan.count)
        self.plan = plan
        if plan.utterances is not None:
            size = plan.bucket * plan.utterances
        else:
            mean = int(plan.lengths_of(np.arange(plan.count)).mean()) if plan.count else 0
            size = plan.bucket * max(1, cast(int, plan.samples) // max(1, mean))
        self.windows = [order[start : start + size] for start in range(0, len(order), size)]
        self._cut: dict[int, list[list[int]]] = {}
        if plan.utterances is not None:
            counts = [-(-len(window) // plan.utterances) for window in self.windows]
        else:
            counts = [len(self._batches(window)) for window in range(len(self.windows))]
        self.ends = list(accumulate(counts))
        self.shuffled = rng.permutation(self.ends[-1] if self.ends else 0)

    def __len__(self) -> int:
        return len(self.shuffled)

    def __getitem__(self, place: int) -> list[int]:  # type: ignore[override]  # nobody asks for a slice
        batch = int(self.shuffled[place])
        window = bisect_right(self.ends, batch)
        return self._batches(window)[batch - (self.ends[window - 1] if window else 0)]

    def _batches(self, window: int) -> list[list[int]]:
        if window not in self._cut:
            members = self.windows[window]
            lengths = self.plan.lengths_of(members)
            order = np.argsort(-lengths, kind="stable")
            self._cut[window] = list(self._pieces(members[order].tolist(), lengths[order].tolist()))
        return self._cut[window]

    def _pieces(self, members: list[int], lengths: list[int]) -> Iterator[list[int]]:
        """Batches of members that come longest first."""
        start = 0
        while start < len(members):
            size = self.plan.utterances or max(1, cast(int, self.plan.samples) // lengths[start])
            yield members[start : start + size]
            start += size


class Batches(Dataset):
    """The micro-batches of one process at each step; the step is the index.

    The recordings of a step are dealt in turn to its world x accumulation parts, longest first, so that the parts
    are about equally long.

    Args:
        window: samples. Recordings are filled up with silence to whole windows, and the silence counts as speech does;
            see `window_of`. None: they are as long as they are.
    """

    def __init__(
        self,
        corpus: Corpus | GrowingCorpus,
        data: Data,
        *,
        seed: int,
        accumulation: int = 1,
        window: int | None = None,
    ) -> None:
        self.corpus = corpus
        self.data = data
        self.seed = seed
        self.accumulation = accumulation
        self.window = window
        self.longest = round(data.max_seconds * SAMPLE_RATE)
        self.rank, self.world = 0, 1
        self.noise = None if data.noise is None else find_corpus(data.noise, min_samples=1)
        seconds = data.batch_seconds
        self.plan = BatchPlan(
            self.lengths,
            seed=seed,
            count=len(corpus),
            utterances=data.batch_utterances if seconds is None else None,
            samples=None if seconds is None else round(seconds * SAMPLE_RATE),
            bucket=data.bucket,
        )

    def lengths(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Samples that models hear for each of these recordings: (len(numbers),)."""
        taken = np.minimum(self.corpus.samples(numbers), self.longest)
        return taken if self.window is None else -(-taken // self.window) * self.window

    def crop(self, epoch: int, utterance: int) -> tuple[int, int]:
        """(first sample, samples) that an epoch takes of a recording."""
        (whole,) = self.corpus.samples([utterance]).tolist()
        length = min(whole, self.longest)
        spare = whole - length
        start = int(np.random.default_rng([self.seed, epoch, utterance]).integers(spare + 1)) if spare else 0
        return start, length

    def __getitem__(self, step: int) -> list[Batch]:
        epoch, place = self.plan.locate(step)
        members = self.plan.epoch(epoch)[place]
        pad_to = int(self.lengths(members).max())
        parts = self.world * self.accumulation
        mine = range(self.rank, parts, self.world)
        return [
            self._read(epoch, members[part::parts], members, pad_to, noise_seed(self.seed, step, part)) for part in mine
        ]

    def _read(self, epoch: int, members: list[int], together: list[int], pad_to: int, seed: int) -> Batch:
        """Of the recordings `together` in a step these members."""
        batch = Batch([], pad_to, [], [], seed, {})
        for member in members:
            start, samples = self.crop(epoch, member)
            try:
                wav = self.corpus.utterance(member).read(start, samples)
            except BadRecording as error:
                batch.skipped[self.corpus.name(member)] = str(error)
                continue
            if bool((wav == wav[0]).all()):
                seconds = f"{start / SAMPLE_RATE:.1f} to {(start + samples) / SAMPLE_RATE:.1f} s"
                batch.skipped[self.corpus.name(member)] = f"it is silent throughout, from {seconds}"
                continue
            wav = self._mixed(wav, epoch, member, together, batch.skipped)
            batch.wavs.append(wav if self.window is None else F.pad(wav, (0, -len(wav) % self.window)))
            batch.utterances.append(member)
            batch.starts.append(start)
        return batch

    def _mixed(self, wav: Tensor, epoch: int, member: int, together: list[int], skipped: dict[str, str]) -> Tensor:
        """With another recording of the step in it, or with noise, where the epoch has drawn so.

        Args:
            skipped: takes noise that cannot be used; speech is told of when its own turn comes.
        """
        share = 0.0 if self.noise is None else self.data.noise_share
        drawn = draw(self.seed, epoch, member, mix=self.data.mix, noise_share=share)
        if drawn is None:
            return wav
        if drawn.noise:
            others = cast(Corpus, self.noise).utterances
        else:
            lengths = self.corpus.samples(together)
            heard = [other for other, length in zip(together, lengths, strict=True) if length and other != member]
            others = [self.corpus.utterance(other) for other in heard]
        if not others:
            return wav
        other = others[int(drawn.second * len(others))]
        try:
            return mixed(wav, drawn, other.samples, other.read)
        except BadRecording as error:
            if drawn.noise:
                skipped[named_noise(other.name)] = str(error)
            return wav

    def loader(self, processes: Processes, first: int, steps: int) -> Generator[list[Batch]]:
        """What this process computes in the steps from `first` up to `steps`, read ahead by worker processes.

        They end when the generator is closed."""
        self.rank, self.world = processes.rank, processes.world
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, steps),
            num_workers=min(self.data.workers, os.cpu_count() or 1),
            worker_init_fn=_leave_signals_to_parent,
        )
        with blocked(STOPS):  # until they know that it is not for them
            batches = iter(loader)
        yield from batches


class Teaching(Protocol):
    """A teacher and its student, as every objective of distillation has them."""

    teacher: Encoder
    student: Encoder


def batches_to_teach(
    objective: Teaching, data: Data, processes: Processes, folder: Path, *, seed: int, accumulation: int
) -> Batches:
    """The recordings that `data` names, as a teacher hears them, for a run in a folder.

    Raises:
        ConfigError, DataError: as `find_corpus`.
    """
    shortest = objective.student.config.receptive_field
    corpus = recordings_of(data, processes, min_samples=shortest, cache=folder / HEADERS_FILE)
    window = window_of(objective.teacher.config)
    return Batches(corpus, data, seed=seed, accumulation=accumulation, window=window)


def window_of(teacher: EncoderConfig) -> int | None:
    """Samples of the windows that recordings are filled up to where a teacher hears whole windows; None elsewhere.

    Such a teacher's frames of silence are part of what it says: its speech attends to them, and so does a decoder
    behind it. A student that has not learned them is of no use to that decoder (docs/whisper.md).
    """
    return teacher.positions * teacher.downsample_rate if teacher.whole_windows else None


def noise_seed(*numbers: int) -> int:
    """A seed for torch that follows from (seed, step, ...) alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _leave_signals_to_parent(worker: int) -> None:
    """What terminals, schedulers and torchrun send reaches every process of a group, more than once; the training
    process finishes its step before it stops, and needs its batches. Its own SIGTERM alone ends this process."""
    others = [number for number in STOPS if number != signal.SIGTERM]
    for number in others:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, others)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """SIGTERM is blocked in all threads, and told apart by who sent it."""
    while signal.sigwaitinfo((signal.SIGTERM,)).si_pid != parent:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
