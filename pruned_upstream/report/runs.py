"""A run folder as data: recipe, metrics as curves, report and the model's shape, as far as they are there.

A run is read while it trains, too. Its writer appends line by line, so a reader (or a kill) may find half a line at the
end of the metrics; that one is left out, anything else that is damaged is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.checkpoint import read_header
from ..model.header import Header
from ..parsing import parse_json, plain_file, read_json, read_mapping
from ..training.methods import METHODS, Method, method_of
from ..training.metrics_log import METRICS_FILE
from ..training.provenance import LAUNCHES_FILE, RECIPE_FILE, REPORT_FILE

UNKNOWN = "training"


@dataclass(frozen=True)
class Curve:
    """A metric over training: `values[i]` is the mean over the steps that end with `steps[i]`; both (n,)."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The value at the last step."""
        return float(self.values[-1])

    def tail(self, share: float = 0.05) -> float:
        """Mean over the last `share` of the steps, at least over the last report."""
        started = self.steps[-1] * (1 - share)
        widths = np.diff(self.steps, prepend=0)
        late = self.steps > started
        return float(np.average(self.values[late], weights=widths[late]))


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: the folder's, or more of its path where that would be ambiguous.
        recipe: resolved, {"section.key": value}.
        curves: by the metric's name.
        launches: what `training.provenance` recorded of each.
        outcome: report.json, empty until training has ended.
        header: of the model file; None until it is written.
        torn: the last line of the metrics was half written.
    """

    folder: Path
    name: str
    method: Method | None
    recipe: Mapping[str, Any]
    curves: Mapping[str, Curve]
    launches: Sequence[Mapping[str, Any]] = ()
    outcome: Mapping[str, Any] = field(default_factory=dict)
    model: Path | None = None
    header: Header | None = None
    torn: bool = False

    @property
    def method_name(self) -> str:
        """prune, distill ...; "training" for a recipe of no method that this version has."""
        return self.method.name if self.method else UNKNOWN

    @property
    def steps(self) -> int:
        """Steps that the metrics tell of."""
        return max((int(curve.steps[-1]) for curve in self.curves.values()), default=0)

    @property
    def total_steps(self) -> int:
        """Steps that the recipe asks for."""
        return int(self.recipe.get("optimisation.steps", self.steps))

    @property
    def finished(self) -> bool:
        """Whether the model is what the recipe makes: all steps done, those of an extension and a second stage, too,
        and the tests that it names decoded. The report is what training writes last."""
        if self.header is None or self.steps < self.total_steps:
            return False
        stage = self.outcome.get("second_stage") or {}
        return (
            self.outcome.get("steps", self.steps) >= self.total_steps
            and stage.get("steps", 0) >= self.recipe.get("second_stage.steps", 0)
            and set(self.recipe.get("data.test") or ()) <= set(self.outcome.get("tests", {}))
        )

    @property
    def missed(self) -> str | None:
        """In words, if the model is further from its target than its recipe tolerates."""
        return self.outcome.get("missed")

    @property
    def seconds(self) -> float:
        """Wall time of training, without what was lost by interruptions."""
        pace = self.curves.get("seconds_per_step")
        return float(np.sum(pace.values * np.diff(pace.steps, prepend=0))) if pace else 0.0

    @property
    def loss(self) -> str | None:
        """The metric by which runs are compared: the distance from the teacher, where there is one."""
        return next((name for name in ("distillation", "loss") if name in self.curves), None)


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read a run folder, finished or not.

    Raises:
        DataError: there is no run, or one of its files is damaged; the place is named.
        CheckpointError: the model file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no run folder {folder}")
    if not (folder / RECIPE_FILE).is_file():
        raise DataError(f"{folder} is not the folder of a training: it holds no {RECIPE_FILE}")
    tree = read_mapping(folder / RECIPE_FILE, "the recipe ")
    method = method_of(tree)
    curves, torn = read_metrics(folder / METRICS_FILE)
    model = _find_model(folder, method)
    return Run(
        folder=folder,
        name=name or folder.resolve().name,
        method=method,
        recipe=_flat(tree),
        curves=curves,
        launches=_read_json(folder / LAUNCHES_FILE, list),
        outcome=_read_json(folder / REPORT_FILE, dict),
        model=model,
        header=read_header(model) if model else None,
        torn=torn,
    )


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Several runs, each under a name of its own: as much of the end of its path as tells it from the others.

    Raises:
        DataError, CheckpointError: as `read_run`; or a folder is given twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise DataError(f"the run {path} is given twice")
    return [read_run(folder, name) for folder, name in zip(folders, _short_names(paths), strict=True)]


def read_metrics(path: Path) -> tuple[dict[str, Curve], bool]:
    """The curves of a metrics file, and whether its last line was half written; no file is no curves.

    Raises:
        DataError: a line before the last is damaged, a value is no number, or steps do not rise.
    """
    try:
        text = plain_file(path).read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    *lines, rest = text.split("\n")
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    gathered: dict[str, list[tuple[int, float]]] = {}
    before = 0
    for number, row in enumerate(rows, 1):
        step = row.pop("step")
        if step <= before:
            raise DataError(f"{path}, line {number}: step {step:g} follows step {before:g}; the file is damaged")
        before = step
        for name, value in row.items():
            gathered.setdefault(name, []).append((step, value))
    curves = {
        name: Curve(np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=float))
        for name, points in gathered.items()
    }
    return curves, bool(rest)


def base_recipe(method: Method) -> dict[str, Any]:
    """What the method's base recipe says, {"section.key": value}; what it does not say has the default."""
    from omegaconf import OmegaConf

    from ..resources import recipe_path

    # not an instance: a recipe without what it requires need not be one
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(method.recipe_class))
    return _flat(defaults) | _flat(read_mapping(recipe_path(method.base)))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is damaged: it is not JSON; remove the line, or restore the file") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise DataError(f"{where} is damaged: it does not name its step")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{where}: {name} is {value!r}, which is no finite number")
    return row


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        keys |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return keys


def _read_json(path: Path, kind: type) -> Any:
    if not path.exists():
        return kind()
    try:
        tree = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, kind):
        raise DataError(f"{path} is damaged: it does not hold a JSON {'object' if kind is dict else 'list'}")
    return tree


def _find_model(folder: Path, method: Method | None) -> Path | None:
    """The model that the run has written; of a method that the table does not hold, under any of the usual names."""
    names = [method.model_file] if method else dict.fromkeys(known.model_file for known in METHODS.values())
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _short_names(paths: Sequence[Path]) -> list[str]:
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
        depth += 1
