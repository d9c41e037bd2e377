"""The ten SUPERB tasks as one table: what each is called in s3prl, how it trains, and where its numbers are read.

s3prl prints its metrics on stdout, each in a form and unit of its own (downstream/*/expert.py); a `Reading` says which
line, and the factor to the unit of this package. Which run is the counted one is the protocol's business
(`protocol.py`). Sources: s3prl 0.4.18 and its downstream/docs/superb.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, PrunedUpstreamError

Protocol = Literal["best_on_dev", "layers", "checkpoints", "folds", "diarization"]


@dataclass(frozen=True)
class Reading:
    """A metric on one line of s3prl's stdout: `label value`, times `scale`."""

    metric: str
    label: str
    scale: float = 100.0
    higher_is_better: bool = True

    def all(self, stdout: str) -> list[float]:
        """Every value printed, in the order of printing."""
        found = re.finditer(rf"^{re.escape(self.label)} (\S+)", stdout, re.MULTILINE)
        return [float(match[1]) * self.scale for match in found]

    def last(self, stdout: str) -> float:
        """The value printed last.

        Raises:
            PrunedUpstreamError: the metric was not printed.
        """
        values = self.all(stdout)
        if not values:
            raise PrunedUpstreamError(f"s3prl ended without printing '{self.label}'; see the stdout.txt of the run")
        return values[-1]

    def best(self, values: Iterable[float]) -> float:
        """The better end of the values."""
        return max(values) if self.higher_is_better else min(values)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: key in tables and files, also the name of its yaml in downstream_configs.
        title: as in the papers.
        downstream: s3prl's name of it (`-d`).
        corpora: folders of the data root it reads (`layout.CORPORA`).
        protocol: which runs are made and which of them counts.
        test: readings of the test run; none where the number does not come from stdout (QbE, SD).
        steps: optimisation steps of the official training; None where nothing is trained.
        dev: what s3prl prints on the development set, for choosing a learning rate; None where there is no such set.
        best_checkpoint: what s3prl calls the checkpoint of the best development result.
        test_split: what is evaluated (`-t`).
    """

    name: str
    title: str
    downstream: str
    corpora: tuple[str, ...]
    protocol: Protocol
    test: tuple[Reading, ...] = ()
    steps: int | None = None
    dev: Reading | None = None
    best_checkpoint: str | None = None
    test_split: str = "test"


def _accuracy_task(
    name: str,
    title: str,
    downstream: str,
    corpora: tuple[str, ...],
    *,
    steps: int,
    protocol: Protocol = "best_on_dev",
) -> Task:
    return Task(
        name,
        title,
        downstream,
        corpora,
        protocol,
        test=(Reading("acc", "test acc:"),),
        steps=steps,
        dev=Reading("acc", "dev acc:"),
        best_checkpoint="dev-best.ckpt",
    )


_ALL = (
    Task(
        "pr",
        "Phoneme Recognition",
        "ctc",
        ("LibriSpeech",),
        "best_on_dev",
        test=(Reading("per", "test per:", higher_is_better=False),),
        steps=100_000,
        dev=Reading("per", "dev per:", higher_is_better=False),
        best_checkpoint="dev-best.ckpt",
    ),
    Task(
        "asr",
        "Automatic Speech Recognition",
        "asr",
        ("LibriSpeech",),
        "best_on_dev",
        test=(Reading("wer", "test-clean wer:", scale=1.0, higher_is_better=False),),
        steps=200_000,
        dev=Reading("wer", "dev-clean wer:", scale=1.0, higher_is_better=False),
        best_checkpoint="dev-clean-best.ckpt",
        test_split="test-clean",
    ),
    _accuracy_task(
        "ks",
        "Keyword Spotting",
        "speech_commands",
        ("speech_commands_v0.01", "speech_commands_test_set_v0.01"),
        steps=200_000,
    ),
    Task("qbe", "Query by Example Spoken Term Detection", "quesst14_dtw", ("quesst14Database",), "layers"),
    _accuracy_task(
        "sid",
        "Speaker Identification",
        "voxceleb1",
        ("VoxCeleb1",),
        steps=200_000,
    ),
    Task(
        "sv",
        "Automatic Speaker Verification",
        "sv_voxceleb1",
        ("VoxCeleb1",),
        "checkpoints",
        test=(Reading("eer", "sv-voxceleb1/test-EER:", higher_is_better=False),),
        steps=200_000,
    ),
    Task(
        "sd",
        "Speaker Diarization",
        "diarization",
        ("diarization",),
        "diarization",
        steps=30_000,
        dev=Reading("acc", "mode dev acc"),
        best_checkpoint="best-states-dev.ckpt",
    ),
    _accuracy_task(
        "ic",
        "Intent Classification",
        "fluent_commands",
        ("fluent_speech_commands_dataset",),
        steps=200_000,
    ),
    Task(
        "sf",
        "Slot Filling",
        "ctc",
        ("SNIPS",),
        "best_on_dev",
        test=(
            Reading("f1", "test slot_type_f1:"),
            Reading("cer", "test slot_value_cer:", higher_is_better=False),
        ),
        steps=200_000,
        dev=Reading("f1", "dev slot_type_f1:"),
        best_checkpoint="dev-best.ckpt",
    ),
    _accuracy_task(
        "er",
        "Emotion Recognition",
        "emotion",
        ("IEMOCAP",),
        steps=30_000,
        protocol="folds",
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}


def layer_stage(layer: int, split: str) -> str:
    """Name of the stage of query by example that searches a split with one hidden state."""
    return f"layer-{layer:02d}/{split}"


def checkpoint_stage(step: int | str) -> str:
    """Name of the stage of speaker verification that tests what was saved at a step."""
    return f"test-{step}"


def select(names: Iterable[str] | None) -> list[Task]:
    """The named tasks in the table's order, all if None.

    Raises:
        ConfigError: an unknown name.
    """
    if names is None:
        return list(TASKS.values())
    wanted = list(names)
    if unknown := [name for name in wanted if name not in TASKS]:
        raise ConfigError(f"unknown task '{unknown[0]}'; the tasks are {', '.join(TASKS)}")
    return [task for task in TASKS.values() if task.name in wanted]
