"""An early answer: what superb_s may come out as, from the tasks that are finished.

superb_s is the mean of ten tasks' points. Those of the tasks that are there are known; what the others add is read off
a line through published models of one size, fitted on points of the tasks that are there. What is said is an estimate
with an interval, and never a superb_s.

Which tasks enter the line is chosen by leaving one model out; the interval is that of the jackknife+ (Barber, Candes,
Ramdas, Tibshirani: Predictive inference with the jackknife+, Annals of Statistics 2021), with the choice made anew for
every model left out. PR and SID tell most for least training: leaving one of the eleven published models out, they miss
by 11 points (root mean square). The pair was chosen among 45 on such rows, so it looks a little better than it is; it
tells 30 points apart, not 10.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import TASK_METRICS
from .published import PublishedRow, published_rows
from .report import Entry
from .scores import SUPERB_S

QUICK_TASKS = ("pr", "sid")
SMALLEST, LARGEST = 20e6, 32e6  # parameters of the models that the line is drawn through
LEVEL = 0.9  # of the interval; what is guaranteed for any data is 2 * LEVEL - 1
MARGIN = 0.25  # of the published models' span, by which points may lie outside it
MOST_TASKS = 2  # that enter a line with a slope each; more enter by their mean


class NoEstimate(Exception):
    """Why nothing can be said yet; no mistake of anybody's."""


@dataclass(frozen=True)
class Line:
    """One way to estimate.

    Attributes:
        groups: tasks, one group for each slope, which enters by the mean of its points.
        exact: the points of all finished tasks are counted as they are, and the line adds what the others bring;
            otherwise the line gives superb_s as a whole.
    """

    groups: tuple[tuple[str, ...], ...]
    exact: bool


@dataclass(frozen=True)
class Estimate:
    """What superb_s may come out as.

    Attributes:
        value: on the line.
        low, high: its interval.
        tasks: that it rests on.
        error: root mean square of what it misses a published model by that the line was not drawn through.
        models: the published models it was drawn through.
    """

    value: float
    low: float
    high: float
    tasks: tuple[str, ...]
    error: float
    models: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"early estimate from {', '.join(self.tasks)}: {self.value:.0f}, {LEVEL:.0%} interval {self.low:.0f} to "
            f"{self.high:.0f}; this is no superb_s but a regression on {len(self.models)} published models of "
            f"{SMALLEST / 1e6:.0f} to {LARGEST / 1e6:.0f}M parameters, which misses one that is left out by "
            f"{self.error:.0f} (rms): {', '.join(self.models)}"
        )


def estimate(metrics: Mapping[str, float], *, parameters: float | None) -> Estimate:
    """The estimate from official results of some tasks.

    Args:
        metrics: metric key -> value in the papers' unit; of official results alone.
        parameters: of the model.

    Raises:
        NoEstimate: nothing can be said, and why: no task, or all ten; a model of unknown size, or of another than
            those published; points farther outside theirs than a quarter of their span.
    """
    points = SUPERB_S.task_scores(metrics)
    rows = comparable_rows()
    known = {task: np.array([SUPERB_S.task_scores(row.metrics)[task] for row in rows]) for task in points}
    _check(points, known, parameters)
    scores = np.array([SUPERB_S(row.metrics) for row in rows])
    lines = _lines(tuple(points))
    line, error = _best(lines, known, scores)
    low, high = _interval(lines, known, scores, points)
    names = tuple(row.name for row in rows)
    return Estimate(_predict(line, known, scores, points), low, high, tuple(points), error, names)


def early_estimates(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each model that has some of its tasks, official ones: the estimate, or why there is none."""
    return [f"{entry.name}: {_said(entry)}" for entry in entries if 0 < len(_points(entry)) < len(TASK_METRICS)]


def _points(entry: Entry) -> dict[str, float]:
    return SUPERB_S.task_scores(entry.official_metrics)


def _said(entry: Entry) -> str:
    try:
        return str(estimate(entry.official_metrics, parameters=entry.parameters))
    except NoEstimate as why:
        return f"no early estimate: {why}"


def comparable_rows() -> list[PublishedRow]:
    """Published models of the size of compact ones."""
    return [row for row in published_rows() if row.parameters is not None and SMALLEST <= row.parameters <= LARGEST]


def _check(points: Mapping[str, float], known: Mapping[str, np.ndarray], parameters: float | None) -> None:
    if not points or len(points) == len(TASK_METRICS):
        raise NoEstimate(f"it takes official results of some tasks, and there are {len(points)} of {len(TASK_METRICS)}")
    sizes = f"{SMALLEST / 1e6:.0f} to {LARGEST / 1e6:.0f}M parameters"
    if parameters is None:
        raise NoEstimate(f"it rests on published models of {sizes}, and this model's parameters were not counted")
    if not SMALLEST <= parameters <= LARGEST:
        raise NoEstimate(f"it rests on published models of {sizes}, and this model has {parameters / 1e6:.2f}M")
    outside = [task for task, value in points.items() if not _within(known[task], value)]
    if outside:
        raise NoEstimate(f"the points of {', '.join(outside)} lie far outside those of the published models")


def _within(known: np.ndarray, value: float) -> bool:
    margin = MARGIN * (known.max() - known.min())
    return known.min() - margin <= value <= known.max() + margin


def _lines(tasks: tuple[str, ...]) -> list[Line]:
    few = [pair for size in range(1, MOST_TASKS + 1) for pair in itertools.combinations(tasks, size)]
    groups = [*(tuple((task,) for task in pair) for pair in few), (tasks,)]
    return [Line(of_line, exact) for of_line in dict.fromkeys(groups) for exact in (True, False)]


def _inputs(line: Line, points: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """The constant, and one column for each slope: (models, slopes + 1)."""
    means = [np.mean(np.stack([np.asarray(points[task]) for task in group]), axis=0) for group in line.groups]
    columns = [np.atleast_1d(mean) for mean in means]
    return np.column_stack([np.ones_like(columns[0]), *columns])


def _counted(line: Line, points: Mapping[str, np.ndarray | float]) -> np.ndarray | float:
    """What the finished tasks bring to superb_s for certain."""
    return sum(points.values()) / len(TASK_METRICS) if line.exact else 0.0


def _predict(line: Line, known: Mapping[str, np.ndarray], scores: np.ndarray, points: Mapping[str, float]) -> float:
    weights = np.linalg.lstsq(_inputs(line, known), scores - _counted(line, known), rcond=None)[0]
    return float((_inputs(line, points) @ weights)[0] + _counted(line, points))


def _without(
    index: int, known: Mapping[str, np.ndarray], scores: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
    """Points and scores of all models but one, and the points of that one."""
    others = {task: np.delete(values, index) for task, values in known.items()}
    return others, np.delete(scores, index), {task: values[index] for task, values in known.items()}


def _best(lines: Sequence[Line], known: Mapping[str, np.ndarray], scores: np.ndarray) -> tuple[Line, float]:
    """The line that misses models that are left out by least, and by how much (root mean square)."""

    def error(line: Line) -> float:
        misses = [scores[i] - _predict(line, *_without(i, known, scores)) for i in range(len(scores))]
        return math.sqrt(sum(miss * miss for miss in misses) / len(misses))

    errors = [error(line) for line in lines]
    best = int(np.argmin(errors))
    return lines[best], errors[best]


def _interval(
    lines: Sequence[Line], known: Mapping[str, np.ndarray], scores: np.ndarray, points: Mapping[str, float]
) -> tuple[float, float]:
    """Jackknife+: each model left out gives a prediction and a residual; quantiles of their sums and differences."""
    lows, highs = [], []
    for i in range(len(scores)):
        others, their_scores, left_out = _without(i, known, scores)
        line, _ = _best(lines, others, their_scores)
        residual = abs(scores[i] - _predict(line, others, their_scores, left_out))
        predicted = _predict(line, others, their_scores, points)
        lows.append(predicted - residual)
        highs.append(predicted + residual)
    rank = min(math.ceil(LEVEL * (len(scores) + 1)), len(scores))
    return sorted(lows)[-rank], sorted(highs)[rank - 1]
