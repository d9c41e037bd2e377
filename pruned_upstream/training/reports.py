"""What the report of every training tells: how long it learned, from what, what was left out, and what was changed on
the way. Methods add what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import Corpus
    from .growing import GrowingCorpus
    from .loop import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Fields of report.json that all methods have.

    recordings, hours: that training could choose from.
    skipped: recordings that were left out before it, with the reason.
    dropped: recordings that could not be used when their turn came, with the reason; counted among `recordings`.
    repeated: recordings that the sources name more than once, and that were taken once.
    left_out: parts of a corpus that are not for training (dev-clean and test-clean of LibriSpeech), and were not used.
    looks_held_out: development and test sets, to judge by their names, that were used, with their recordings.
    amendments: changes of the recipe on the way: {"from_step", "key", "before", "after"}.
    """

    steps: int
    recordings: int
    hours: float
    skipped: dict[str, str]
    dropped: dict[str, str]
    repeated: int
    left_out: list[str]
    looks_held_out: dict[str, int]
    amendments: list[dict[str, Any]]


def training_facts(corpus: Corpus | GrowingCorpus, trainers: Sequence[Trainer], *, steps: int) -> dict[str, Any]:
    """The fields of a `TrainingReport`, after training.

    Args:
        trainers: of each stage or round of the run.
        steps: of the whole run.
    """
    return {
        "steps": steps,
        "recordings": len(corpus.utterances),
        "hours": corpus.hours,
        "skipped": corpus.skipped,
        "dropped": {name: reason for trainer in trainers for name, reason in trainer.dropped.items()},
        "repeated": len(corpus.repeated),
        "left_out": corpus.left_out,
        "looks_held_out": corpus.looks_held_out,
        "amendments": [
            ({"part": trainer.folder.name} if len(trainers) > 1 else {}) | amendment
            for trainer in trainers
            for amendment in trainer.amendments
            if amendment["from_step"] < trainer.steps  # else nothing was computed with it
        ],
    }
