"""Many runs of one recipe: every combination of the values that are varied, each in a folder of its own.

    SWEEP/
      target-0.5_seed-0/   a point: the run folder, named after what is varied; `superb/` in it holds its scores
      jobs/                logs of submitit
      results.csv          one line per point
      results.yaml         the same, and means over seeds
      trade_off*.png       quality against size (PARP: against sparsity), error bars over seeds

A finished point is never run again, one that was interrupted goes on, and one that fails does not stop the others.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from .errors import ConfigError
from .files import atomic_files, atomic_write, locked, write_text
from .jobs import Failure, run_jobs
from .report.runs import read_run
from .superb.layout import Data
from .superb.results import FILE_NAME, RunResults, read_results
from .superb.running import Settings
from .superb.running import run as run_superb
from .superb.tasks import select
from .training.methods import Method, method_named
from .training.provenance import RECIPE_FILE
from .training.recipe import flat_keys, key_kinds, load_recipe
from .training.state import check_same_run

SEED, FOLDER = "run.seed", "run.folder"
JOBS_FOLDER, SCORES_FOLDER = "jobs", "superb"
SWEEP_LOCK = ".sweep.lock"
SAVING_SECONDS = 20.0  # that points get to finish their step and save
CSV_FILE, YAML_FILE = "results.csv", "results.yaml"
PARAMETERS, ZEROS, REACHED, LOSS = "parameters", "sparsity", "counted_sparsity", "loss"
REPORTED = (REACHED, ZEROS, "file_bytes")  # what a run's report may say of its model
MISSED = "missed"  # column: 1 where the target is missed by more than the recipe tolerates


@dataclass(frozen=True)
class Axis:
    """A recipe key and the values that it takes."""

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """From "section.key=a,b,c", the values as YAML.

        Raises:
            ConfigError: it has another form, no values, or a value twice.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        key, equals, values = (part.strip() for part in text.partition("="))
        if not (key and equals and values):
            raise ConfigError(f"'{text}' varies nothing; write section.key=a,b,c")
        try:
            tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"values=[{values}]"]))
            parsed = tree["values"]
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"the values in '{text}' are not YAML: {error}") from error
        if not parsed or any(parsed.count(value) > 1 for value in parsed):
            raise ConfigError(f"'{text}' must name one value or several different ones")
        return cls(key, tuple(parsed))


@dataclass(frozen=True)
class Scoring:
    """Which SUPERB tasks each point is scored on; `short` takes their short trainings."""

    tasks: tuple[str, ...]
    data: Data
    short: bool = False


@dataclass(frozen=True)
class Point:
    """One run: the values of the varied keys, and the recipe that they make."""

    name: str
    values: Mapping[str, Any]
    recipe: Any

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.recipe.run.folder)

    @property
    def scores(self) -> Path:
        """Where the run's SUPERB results are."""
        return self.folder / SCORES_FOLDER


@dataclass(frozen=True)
class Sweep:
    """All points of a grid, in the order of the axes; with `amend`, they go on with other rates or more steps."""

    folder: Path
    method: Method
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    scoring: Scoring | None = None
    amend: bool = False

    def model(self, point: Point) -> Path:
        """The point's model file, whether or not it is there."""
        return point.folder / self.method.model_file

    def is_trained(self, point: Point) -> bool:
        """Whether the point's model is what its recipe makes, and decoded where the recipe names tests.

        Raises:
            ConfigError: the point's folder holds a run of another recipe.
            DataError: its files are damaged.
        """
        saved = point.folder / RECIPE_FILE
        if not saved.is_file():
            return False
        before = load_recipe(saved, self.method.recipe_class)
        kinds, wanted = key_kinds(self.method.recipe_class), flat_keys(point.recipe)
        amended = check_same_run(point.folder, flat_keys(before), wanted, kinds, amend=self.amend)
        return not amended and read_run(point.folder).finished

    def is_finished(self, point: Point) -> bool:
        """Whether the point is trained and scored on all tasks that were asked for."""
        if not self.is_trained(point):
            return False
        return self.scoring is None or set(self.scoring.tasks) <= set(_scores_of(point).tasks)


@dataclass(frozen=True)
class Measure:
    """A column of the results as it is shown: what an axis says of it, and by what its values are multiplied."""

    name: str
    label: str
    scale: float = 1.0

    def of(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """Mean and spread in a row of `over_seeds`."""
        return self.scale * row[self.name], self.scale * row[f"{self.name}_spread"]


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


def plan(
    source: str | Path,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    *,
    method: str = "prune",
    scoring: Scoring | None = None,
    amend: bool = False,
) -> Sweep:
    """Every combination of the axes' values as a recipe; the sweep's folder is the recipe's run.folder.

    Raises:
        ConfigError: nothing is varied, a key twice, or the folder; or a recipe that cannot be.
    """
    keys = [axis.key for axis in axes]
    if not axes:
        raise ConfigError("nothing is varied; give --sparsity, --seeds or --vary section.key=a,b,c")
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is varied twice")
    if FOLDER in keys:
        raise ConfigError(f"{FOLDER} cannot be varied; every point has a folder of its own in it")
    if scoring is not None:
        select(scoring.tasks)
    known = method_named(method)
    points = []
    for values in itertools.product(*(axis.values for axis in axes)):
        point = dict(zip(keys, values, strict=True))
        settings = [f"{key}={json.dumps(value)}" for key, value in point.items()]
        recipe = load_recipe(source, known.recipe_class, [*overrides, *settings])
        folder = Path(recipe.run.folder)
        name = _name(point)
        placed = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, folder=str(folder / name)))
        points.append(Point(name, point, placed))
    for name, times in Counter(point.name for point in points).items():
        if times > 1:
            raise ConfigError(f"{times} points of the sweep would share the folder {name}; vary other values")
    return Sweep(folder, known, tuple(axes), tuple(points), scoring, amend)


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
        DataError: the corpora of `scoring` are incomplete, or a point's files are damaged.
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
    for name in finished:
        ended(name, None)
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
    rows = [_row(sweep, point) for point in sweep.points if sweep.is_trained(point)]
    means = over_seeds(rows, [axis.key for axis in sweep.axes])
    with atomic_files(sweep.folder) as unfinished:
        _write_tables(unfinished, rows, means)
        pictures = _draw(unfinished, sweep, means)
    return Outcome(rows, means, failures, [sweep.folder / path.name for path in pictures])


def _write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], means: Sequence[Mapping[str, Any]]) -> None:
    """results.csv and results.yaml about the finished points."""
    import yaml

    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_write(folder / CSV_FILE) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tree = {"points": list(rows), "over_seeds": list(means)}
    write_text(folder / YAML_FILE, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def over_seeds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Points that differ in their seed alone as one: their number, and of each measure the mean and the spread.

    The spread is the sample standard deviation, 0 for a single point.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[key] for key in keys if key != SEED]), []).append(row)
    table = []
    for members in groups.values():
        merged: dict[str, Any] = {key: members[0][key] for key in keys if key != SEED} | {"seeds": len(members)}
        for measure in members[0]:
            if measure not in ("point", *keys) and all(measure in row for row in members):
                values = [row[measure] for row in members]
                merged[measure] = mean(values)
                merged[f"{measure}_spread"] = stdev(values) if len(values) > 1 else 0.0
        table.append(merged)
    return table


def measures(sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """What finished points are compared by: the size of the model first, then every quality that some of them have."""
    from .superb.metrics import METRICS

    labels = {LOSS: "distillation loss, mean of the last 5 % of steps" if sweep.method.distillation else "loss"}
    labels |= {key: metric.label for key, metric in METRICS.items()}
    if any(ZEROS in row for row in means):
        size = Measure(ZEROS, "sparsity (%)", 100.0)
    else:
        size = Measure(PARAMETERS, "parameters (M)", 1e-6)
    names = dict.fromkeys(name for row in means for name in row if f"{name}_spread" in row)
    others = [name for name in names if name not in (PARAMETERS, MISSED, *REPORTED)]
    return [size, *(Measure(name, labels.get(name, name)) for name in others)]


def _run_point(sweep: Sweep, point: Point) -> Failure | None:
    """Train and, if wanted, score; in a job."""
    if not sweep.is_trained(point):
        sweep.method.run_recipe(point.recipe, amend=sweep.amend)
        _release_gpu()  # the tasks' processes want the room
    if sweep.scoring is None:
        return None
    settings = Settings(
        folder=point.scores,
        upstream="pruned_upstream",
        checkpoint=sweep.model(point),
        model=point.name,
        data=sweep.scoring.data,
        tasks=sweep.scoring.tasks,
        short=sweep.scoring.short,
    )
    failures = run_superb(settings).failures
    if not failures:
        return None
    reasons = "; ".join(f"{task}: {failure.reason}" for task, failure in failures.items())
    return Failure(reasons, next(iter(failures.values())).log_tail)


def _release_gpu() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _row(sweep: Sweep, point: Point) -> dict[str, Any]:
    from .model.size import count_parameters
    from .training.recognition import COUNTS

    run = read_run(point.folder)
    header: Any = run.header  # which a finished run has
    row: dict[str, Any] = {"point": point.name, **point.values, PARAMETERS: count_parameters(header.config)}
    row |= {name: run.outcome[name] for name in REPORTED if name in run.outcome}
    if MISSED in run.outcome:
        row[MISSED] = int(run.missed is not None)
    if run.loss is not None:
        row[LOSS] = run.curves[run.loss].tail()
    for source, rates in run.outcome.get("tests", {}).items():
        row |= {f"{name.upper()} (%) of {source}": 100 * rates[name] for name in rates if name not in COUNTS}
    return row | _scores_of(point).metrics


def _scores_of(point: Point) -> RunResults:
    if (point.scores / FILE_NAME).is_file():
        return read_results(point.scores)
    return RunResults(point.name, "")


def _draw(folder: Path, sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Each quality against the size, a curve for each combination of the keys beside seed and sparsity."""
    from .description.figures import save_figure
    from .report.figures import trade_off

    keys = [axis.key for axis in sweep.axes if axis.key not in (SEED, sweep.method.sparsity)]
    size, *qualities = measures(sweep, means)
    pictures = []
    for quality in qualities:
        curves: dict[str, list[tuple[float, float, float, float]]] = {}
        missed: set[tuple[float, float]] = set()
        for row in means:
            if quality.name in row:
                name = ", ".join(f"{key}={json.dumps(row[key])}" for key in keys)
                curves.setdefault(name or sweep.method.name, []).append((*size.of(row), *quality.of(row)))
                if row.get(MISSED):
                    missed.add((size.of(row)[0], quality.of(row)[0]))
        suffix = "" if quality.name == LOSS else "_" + _plain(quality.name).replace(".", "_")
        path = folder / f"trade_off{suffix}.png"
        save_figure(trade_off(curves, size=size.label, quality=quality.label, missed=missed), path)
        pictures.append(path)
    return pictures


def _name(values: Mapping[str, Any]) -> str:
    """Of a point's folder: keys without their section, unless two keys would look alike; no sign that needs quoting."""
    shorts = Counter(key.rpartition(".")[2] for key in values)
    parts = []
    for key, value in values.items():
        short = key.rpartition(".")[2]
        parts.append(f"{short if shorts[short] == 1 else key}-{_plain(str(value))}")
    return "_".join(parts)


def _plain(text: str) -> str:
    """As a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")
