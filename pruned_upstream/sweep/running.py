"""Running what is left of a sweep, each point as a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..description.figures import save_figure
from ..files import atomic_files, locked
from ..jobs import Failure, run_jobs
from ..model.convert import load_teacher
from ..report.folder import explain
from ..report.scores_page import write_scores_page
from ..s3prl_plugin.registry import ANY_FAMILY
from ..superb.running import Settings
from ..superb.running import run as run_superb
from ..training.fingerprints import OF_TEACHER, encoder_fingerprint
from ..training.provenance import inputs_of
from ..training.state import check_same_inputs
from .folder import JOBS_FOLDER, write_guide, write_sweep_page
from .grid import Point, Scoring, Sweep
from .results import finished_rows, over_seeds, trade_offs, write_tables

SWEEP_LOCK = ".sweep.lock"
SAVING_SECONDS = 20.0  # that points get to finish their step and save


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_sweep` achieved.

    Attributes:
        rows: of all finished points.
        means: the same over seeds.
        failures: by point.
    """

    rows: list[dict[str, Any]]
    means: list[dict[str, Any]]
    failures: Mapping[str, Failure]
    pictures: list[Path] = field(default_factory=list)


def run_sweep(
    sweep: Sweep,
    launcher: str = "local",
    parameters: Mapping[str, str | int] | None = None,
    *,
    at_once: int | None = 1,
    ended: Callable[[str, Failure | None], None] = lambda name, failure: None,
) -> Outcome:
    """Run what is left of a sweep, then collect and draw what is finished.

    Args:
        launcher, parameters, at_once: as `jobs.run_jobs`.
        ended: is told of each point as it ends, of finished ones at once; None is success.

    Raises:
        ConfigError: a point's folder holds a run of another recipe, or the launcher is not to be had.
        DataError: the corpora of `scoring` are incomplete, a point's files are damaged, or it is of another teacher
            than the recipe names now.
    """
    with locked(sweep.folder, SWEEP_LOCK):
        return _run_locked(sweep, launcher, parameters or {}, at_once, ended)


def _run_locked(
    sweep: Sweep,
    launcher: str,
    parameters: Mapping[str, str | int],
    at_once: int | None,
    ended: Callable[[str, Failure | None], None],
) -> Outcome:
    finished = [point.name for point in sweep.points if sweep.is_finished(point)]
    _check_teachers([point for point in sweep.points if sweep.is_trained(point)])
    for name in finished:
        ended(name, None)
    write_guide(sweep.folder, sweep, finished)
    work = {p.name: partial(_run_point, sweep, p) for p in sweep.points if p.name not in finished}
    failures: dict[str, Failure] = {}

    def note(name: str, result: Failure | None) -> None:
        if result is not None:
            failures[name] = result
        ended(name, result)

    if work:
        jobs = sweep.folder / JOBS_FOLDER
        run_jobs(
            work, jobs, launcher, parameters, name="sweep", at_once=at_once, grace_seconds=SAVING_SECONDS, ended=note
        )
    rows = finished_rows(sweep)
    means = over_seeds(rows, [axis.key for axis in sweep.axes])
    figures = trade_offs(sweep, means)
    with atomic_files(sweep.folder) as unfinished:
        write_tables(unfinished, rows, means)
        for name, (_, figure) in figures.items():
            save_figure(figure, unfinished / name)
        write_guide(unfinished, sweep, [point.name for point in sweep.points if sweep.is_finished(point)])
        write_sweep_page(unfinished, sweep, rows, means, figures.values(), failures)
    return Outcome(rows, means, failures, [sweep.folder / name for name in figures])


def _check_teachers(trained: Sequence[Point]) -> None:
    """What is trained is not trained again, and must be of the teacher that the recipe names now, by content.

    Where that is gone, what it left is only collected.

    Raises:
        DataError: a point is of another teacher.
    """
    for teacher in dict.fromkeys(getattr(point.recipe, "teacher", None) for point in trained):
        if teacher is None or not Path(teacher).exists():
            continue
        current = {OF_TEACHER: encoder_fingerprint(load_teacher(teacher))}
        for point in trained:
            saved = inputs_of(point.folder) if point.recipe.teacher == teacher else {}
            if OF_TEACHER in saved:
                check_same_inputs(point.folder, {OF_TEACHER: saved[OF_TEACHER]}, current)


def _run_point(sweep: Sweep, point: Point) -> Failure | None:
    """Train and, if wanted, score; in a job."""
    if not sweep.is_trained(point):
        sweep.method.run_recipe(point.recipe, amend=sweep.amend)
        _release_gpu()  # the tasks' processes want the room
    failures = _score(sweep, point, sweep.scoring) if sweep.scoring is not None else {}
    explain(point.folder)
    if not failures:
        return None
    reasons = "; ".join(f"{task}: {failure.reason}" for task, failure in failures.items())
    return Failure(reasons, next(iter(failures.values())).log_tail)


def _score(sweep: Sweep, point: Point, scoring: Scoring) -> Mapping[str, Failure]:
    settings = Settings(
        folder=point.scores,
        upstream=ANY_FAMILY,
        checkpoint=sweep.model(point),
        model=point.name,
        data=scoring.data,
        tasks=scoring.tasks,
        short=scoring.short,
    )
    report = run_superb(settings)
    write_scores_page(settings.folder, report.results, report.failures)
    return report.failures


def _release_gpu() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
