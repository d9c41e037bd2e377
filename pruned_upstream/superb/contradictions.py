"""What a task's result says of itself, held against itself: `official: true` must be borne out by every entry.

A results file is meant to be read by people and may be edited by them, or come from somewhere else. What is called
official and says elsewhere that it was trained for four steps is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import diarization, official
from .layout import OFFICIAL_LEXICONS, OFFICIAL_TRIAL_LIST
from .tasks import TASKS, Task, checkpoint_stage, layer_stage

if TYPE_CHECKING:
    from .results import TaskResult

MOST_STEPS_PER_SECOND = 1000  # of training, forward and backward; no machine makes more
ROUNDED = 0.01  # what two decimals may hide
REASONS = re.compile(
    r"not official|not the official|officially|contradicts itself|instead of|not s3prl's|never beat its start|"
    r"no checkpoint|this package's scorer|the short training|the upstream's options|in another order|several times|"
    r"a second time|of the wrong session|background noise alone"
)
"""Words of the reasons that a run gives for a result that is not official (tests hold each of them against this)."""

_LISTS = {"pr": OFFICIAL_LEXICONS, "sv": (OFFICIAL_TRIAL_LIST,)}


def contradictions(task: str, result: TaskResult) -> list[str]:
    """Why a result is not official, whatever it calls itself; empty where nothing in it says so."""
    return [complaint for check in _CHECKS for complaint in check(TASKS[task], result)]


def _steps(task: Task, result: TaskResult) -> Iterator[str]:
    if result.steps != task.steps:
        yield f"steps is {_said(result.steps)}, officially {_said(task.steps)}"
    if result.steps and result.seconds is not None and result.steps > MOST_STEPS_PER_SECOND * result.seconds:
        yield f"no machine makes {result.steps} steps in {result.seconds:g} seconds"


def _notes(task: Task, result: TaskResult) -> Iterator[str]:
    if any(REASONS.search(note) for note in result.notes):
        yield "its notes say why it is not"


def _folders(task: Task, result: TaskResult) -> Iterator[str]:
    wanted = {"er": (len(official.FOLDS),), "asr": (1, 2)}.get(task.name, (1,))
    if result.folders and len(result.folders) not in wanted:
        yield f"folders has {len(result.folders)} entries, officially {' or '.join(map(str, wanted))}"
    if len(set(result.folders)) < len(result.folders):
        yield "folders has an entry twice"
    layer, checkpoint = result.details.get("layer"), str(result.details.get("checkpoint", ""))
    if task.protocol == "layers" and isinstance(layer, int):
        counted = f"{task.name}/{layer_stage(layer, 'test')}"
    elif task.protocol == "checkpoints" and checkpoint:
        counted = f"{task.name}/{checkpoint_stage(checkpoint.removeprefix('states-').removesuffix('.ckpt'))}"
    else:
        return
    if result.folders and counted not in result.folders:
        yield f"folders has {result.folders[0]}, and {counted} is what was chosen"


def _lists(task: Task, result: TaskResult) -> Iterator[str]:
    hashes = {
        key.removeprefix(official.HASH_OF): digest
        for key, digest in result.details.items()
        if key.startswith(official.HASH_OF)
    }
    for name, digest in hashes.items():
        if name not in _LISTS.get(task.name, hashes):
            yield f"it rests on {name}, which is none of s3prl's lists"
        elif digest != official.SHA256.get(name, digest):
            yield f"the hash of {name} is not that of s3prl's"


def _scorer(task: Task, result: TaskResult) -> Iterator[str]:
    wanted = official.SCORERS.get(task.name)
    scorer = str(result.details.get("scorer", wanted))
    if wanted is not None and wanted not in scorer:
        yield f"its scorer is '{scorer}', and no {wanted}"


def _checkpoints(task: Task, result: TaskResult) -> Iterator[str]:
    if task.protocol != "checkpoints":
        return
    tested = result.details.get("checkpoints tested", len(official.TRAINING_CHECKPOINTS))
    if tested != len(official.TRAINING_CHECKPOINTS):
        yield f"{tested} checkpoints were tested, officially {len(official.TRAINING_CHECKPOINTS)}"
    chosen = result.details.get("checkpoint")
    if chosen is not None and chosen not in {f"states-{step}.ckpt" for step in official.TRAINING_CHECKPOINTS}:
        yield f"the checkpoint {chosen} is none of those that are tested officially"


def _mean_of_folds(task: Task, result: TaskResult) -> Iterator[str]:
    if task.protocol != "folds":
        return
    folds = [result.details.get(session.replace("Session", "fold")) for session in official.FOLDS]
    values = [float(value) for value in folds if isinstance(value, int | float)]
    (reported,) = result.metrics.values()
    if values and len(values) < len(folds):
        yield f"{len(values)} of {len(folds)} folds have a number"
    elif values and not math.isclose(sum(values) / len(values), reported, rel_tol=0, abs_tol=ROUNDED):
        yield f"the mean of its folds is {sum(values) / len(values):.2f}, not {reported:.2f}"


def _turns(task: Task, result: TaskResult) -> Iterator[str]:
    if task.protocol != "diarization":
        return
    for name, official_ones in (("threshold", diarization.THRESHOLDS), ("median", diarization.MEDIANS)):
        value = result.details.get(name)
        if value is not None and value not in official_ones:
            yield f"the {name} {value} is none of {', '.join(map(str, official_ones))}"


def _learning_rate(task: Task, result: TaskResult) -> Iterator[str]:
    if task.dev is None:
        return
    start = f"dev {task.dev.metric} at "
    reached = {
        key.removeprefix(start): value
        for key, value in result.details.items()
        if key.startswith(start) and isinstance(value, int | float)
    }
    chosen = result.details.get("learning rate")
    if reached and isinstance(chosen, int | float) and reached.get(f"{chosen:g}") != task.dev.best(reached.values()):
        yield f"the learning rate {chosen:g} is not the best of those tried on the development set"


def _said(steps: int | None) -> str:
    return "null" if steps is None else str(steps)


_CHECKS: tuple[Callable[[Task, TaskResult], Iterator[str]], ...] = (
    _steps, _notes, _folders, _lists, _scorer, _checkpoints, _mean_of_folds, _turns, _learning_rate,
)  # fmt: skip
