"""What the report of every training tells: how long it learned, from what, what was left out, and what was changed on
the way. Methods add what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import Corpus
    from .growing import GrowingCorpus
    from .loop import Trainer


LOOKS_HELD_OUT = "TRAINED ON, LOOKS LIKE TEST DATA"


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Fields of report.json that all methods have.

    recordings, hours: that training could choose from.
    skipped: recordings that were left out before it, with the reason; those of noise are named so.
    dropped: recordings that could not be used when their turn came, with the reason; counted among `recordings`, but
        for those of noise.
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


def named_noise(name: str) -> str:
    """A recording of noise among those of speech."""
    return f"noise {name}"


def remarks(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must know of some runs, as titles and sentences; an amendment each has one.

    Args:
        report: fields of report.json, as far as they are there.
    """
    found = []
    if left_out := report.get("left_out"):
        found.append(("left out, not for training", ", ".join(left_out)))
    if held_out := report.get("looks_held_out"):
        found.append((LOOKS_HELD_OUT, ", ".join(f"{name} ({count})" for name, count in held_out.items())))
    for change in report.get("amendments", ()):
        where = f"{change['part']}, " if "part" in change else ""
        before, after = in_words(change["before"]), in_words(change["after"])
        found.append(("amended", f"{where}{change['key']}: {before} -> {after} after step {change['from_step']}"))
    return found


def in_words(value: Any) -> str:
    """A recipe's value as YAML would say it, numbers to six digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
        "skipped": {**corpus.skipped, **_unusable_noise(trainers)},
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


def _unusable_noise(trainers: Sequence[Trainer]) -> dict[str, str]:
    """Of all stages, whose noise is mostly the same."""
    corpora = [trainer.batches.noise for trainer in trainers if trainer.batches.noise is not None]
    return {named_noise(name): reason for corpus in corpora for name, reason in corpus.skipped.items()}
