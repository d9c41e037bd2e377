"""The grid of a sweep: axes, and one point for each combination of their values, with a folder of its own."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..readme import PAGE
from ..report.runs import read_run
from ..superb.layout import Data
from ..superb.results import FILE_NAME, RunResults, read_results
from ..superb.tasks import select
from ..training.guide import SCORES
from ..training.methods import Method, method_named
from ..training.provenance import RECIPE_FILE
from ..training.recipe import flat_keys, key_kinds, load_recipe
from ..training.state import check_same_run

log = logging.getLogger(__name__)

SEED, FOLDER = "run.seed", "run.folder"


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
        return self.folder / SCORES


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
        """Whether the point is trained, scored on all tasks that were asked for, and has its page, which comes last."""
        if not self.is_trained(point) or not (point.folder / PAGE).is_file():
            return False
        return self.scoring is None or set(self.scoring.tasks) <= set(scores_of(point, self.model(point)).tasks)


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


def scores_of(point: Point, model: Path) -> RunResults:
    """The SUPERB results of the point's model; without tasks where it has none, or those of what it was before it was
    trained on."""
    if (point.scores / FILE_NAME).is_file():
        results = read_results(point.scores)
        if results.of_file(model):
            return results
        log.warning("%s holds scores of the model as it was before; remove it to score the one of now", point.scores)
    return RunResults(point.name, "")


def _name(values: Mapping[str, Any]) -> str:
    """Of a point's folder: keys without their section, unless two keys would look alike; no sign that needs quoting."""
    shorts = Counter(key.rpartition(".")[2] for key in values)
    parts = []
    for key, value in values.items():
        short = key.rpartition(".")[2]
        parts.append(f"{short if shorts[short] == 1 else key}-{plain(str(value))}")
    return "_".join(parts)


def plain(text: str) -> str:
    """As a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")
