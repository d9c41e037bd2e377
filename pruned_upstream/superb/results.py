"""What a run of the tasks measured: `results.yaml` in the run folder, written after every task that ends.

The file is meant to be read by people and may be edited by them, so reading checks everything: unknown keys,
wrong types, NaN, and numbers that no evaluation can give are refused with the place they stand at. A result that is
called official and says elsewhere why it is not (`contradictions.py`) is read as one that is not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError
from ..files import write_text
from ..parsing import is_text, read_yaml, shown
from .contradictions import contradictions
from .metrics import METRICS, TASK_METRICS

SHA256 = "checkpoint_sha256"  # in the provenance: of the file that was measured
FILE_NAME = "results.yaml"
VERSION = 1
MAC_BUCKETS = 4
LONGEST_NAME = 200
NAMES = f"a model's name is one line of at most {LONGEST_NAME} printable characters"
MOST = 1e18  # of parameters, multiply-accumulates, steps, seconds: no measurement gives more


@dataclass(frozen=True)
class TaskResult:
    """The outcome of one task.

    Attributes:
        metrics: metric name -> value in the papers' unit, exactly the metrics of the task (`metrics.TASK_METRICS`).
        official: official data, lists, scorer and number of steps; False whenever one was substituted.
        notes: remarks for the reader; a result that is not official says why here.
        steps: optimisation steps that were trained (None for QbE, which trains nothing).
        seconds: wall time of the task.
        folders: where the counted predictions lie, relative to the run folder: one folder, five for ER's folds.
        details: what the protocol chose on the way (QbE's layer, SD's threshold, the learning rate ...).
    """

    metrics: Mapping[str, float]
    official: bool
    notes: tuple[str, ...] = ()
    steps: int | None = None
    seconds: float | None = None
    folders: tuple[str, ...] = ()
    details: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResults:
    """Everything measured for one model.

    Attributes:
        model: the name it has in tables.
        upstream: s3prl's upstream name; `checkpoint` is what followed `-k`.
        parameters: counted parameters; None where the upstream was not counted.
        nonzero_parameters: those that are not zero.
        macs: multiply-accumulates of the four official buckets (`description.macs`), or None.
        profiler_macs: what the official profiler would show of them, on a GPU (`macs.seen_by_profiler`).
        tasks: task name -> result; a task that was not run, or failed, is absent.
        provenance: versions, seed, commit, command: free text for the reader.
    """

    model: str
    upstream: str
    checkpoint: str | None = None
    parameters: int | None = None
    nonzero_parameters: int | None = None
    macs: tuple[int, ...] | None = None
    profiler_macs: tuple[int, ...] | None = None
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_macs(self) -> int | None:
        """Official multiply-accumulates over the four groups of utterances; None if they were not counted."""
        return None if self.macs is None else sum(self.macs)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics by key: `{"pr.per": 9.09, ...}`."""
        return {
            f"{task}.{name}": value for task, result in self.tasks.items() for name, value in result.metrics.items()
        }

    def of_file(self, model: Path) -> bool:
        """Whether they were measured on this very file; results that do not say are taken at their word."""
        measured = self.provenance.get(SHA256)
        return measured is None or measured == sha256(model)


def sha256(file: Path) -> str:
    """Of all that a file holds, in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_name(text: str) -> bool:
    """Whether tables can show it as the name of a model."""
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_NAME


def looks_like_fractions(results: RunResults) -> list[str]:
    """Values in percent that are more likely fractions: an error rate, or an accuracy, of less than one percent.

    s3prl prints most metrics as fractions, and an EER of 0.0855 instead of 8.55 is worth 190 points of Score.
    """
    return [
        f"{results.model}: {key} is {value:g}, and results are in {METRICS[key].unit}; if it is a fraction, "
        f"write {100 * value:g}"
        for key, value in results.metrics.items()
        if 0 < value < 1
    ]


def write_results(folder: str | Path, results: RunResults) -> Path:
    """Write `results.yaml` into the run folder, replacing the former one in one step.

    Raises:
        DataError: the results are not valid (the file keeps what it held).
        PrunedUpstreamError: the folder cannot be written.
    """
    path = Path(folder) / FILE_NAME
    tree = {"version": VERSION, **_plain(results)}
    _parse(tree, path)
    write_text(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))
    return path


def read_results(folder: str | Path) -> RunResults:
    """Read the run folder's `results.yaml`.

    Raises:
        DataError: no such file, no YAML, or a value that cannot be; the message names the place.
    """
    path = Path(folder) / FILE_NAME
    try:
        tree = read_yaml(path)
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not a run folder: it holds no {FILE_NAME}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    results = _parse(tree, path)
    tasks = {name: _believed(name, task) for name, task in results.tasks.items()}
    return dataclasses.replace(results, tasks=tasks)


def _believed(name: str, result: TaskResult) -> TaskResult:
    """The result, not official where it contradicts itself."""
    found = contradictions(name, result) if result.official else []
    if not found:
        return result
    why = f"it is called official, and contradicts itself: {'; '.join(found)}"
    return dataclasses.replace(result, official=False, notes=(why, *result.notes))


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as the dicts and lists that YAML knows."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _parse(tree: Any, path: Path) -> RunResults:
    at = _Place(path)
    tree = at.fields(tree, RunResults, extra=("version",), later=("nonzero_parameters", "profiler_macs"))
    version = tree.pop("version")
    if version != VERSION or isinstance(version, bool):
        raise at.error("version", f"is not {VERSION}; the file was written by another version of this package")
    at.check(tree, "model", str)
    if not is_name(tree["model"]):
        raise at.error("model", f"is {shown(tree['model'])}; {NAMES}")
    at.check(tree, "upstream", str)
    at.check(tree, "checkpoint", str, optional=True)
    at.check(tree, "parameters", int, optional=True, low=0)
    at.check(tree, "nonzero_parameters", int, optional=True, low=0)
    at.check_not_above(tree, "nonzero_parameters", "parameters")
    for key in ("macs", "profiler_macs"):
        if tree[key] is not None:
            tree[key] = at.items(tree, key, int)
            if len(tree[key]) != MAC_BUCKETS or min(tree[key]) < 0:
                raise at.error(key, f"must be {MAC_BUCKETS} counts, one for each official bucket of utterances")
    at.check_not_above(tree, "profiler_macs", "macs")
    tree["provenance"] = at.mapping(tree, "provenance", str)
    if not isinstance(tree["tasks"], Mapping):
        raise at.error("tasks", "is not a mapping from task to result")
    tree["tasks"] = {name: _parse_task(name, task, path) for name, task in tree["tasks"].items()}
    return RunResults(**tree)


def _parse_task(name: str, tree: Any, path: Path) -> TaskResult:
    at = _Place(path, f"tasks.{name}")
    if name not in TASK_METRICS:
        raise DataError(f"{path}: unknown task '{name}'; known are {', '.join(TASK_METRICS)}")
    tree = at.fields(tree, TaskResult)
    at.check(tree, "official", bool)
    at.check(tree, "steps", int, optional=True, low=0)
    at.check(tree, "seconds", float, optional=True, low=0)
    tree["notes"] = at.items(tree, "notes", str)
    tree["folders"] = at.items(tree, "folders", str)
    tree["details"] = at.mapping(tree, "details", (str, int, float))
    if not tree["official"] and not tree["notes"]:
        raise at.error("notes", "is empty; a result that is not official must say why")

    known = {metric.name: metric for metric in TASK_METRICS[name]}
    tree["metrics"] = at.mapping(tree, "metrics", float)
    if tree["metrics"].keys() != known.keys():
        raise at.error("metrics", f"has {sorted(tree['metrics'])}; the task has {sorted(known)}")
    for key, value in tree["metrics"].items():
        if not known[key].low <= value <= known[key].high:
            bounds = f"{known[key].low:g} to {known[key].high:g} ({known[key].unit})"
            raise at.error(f"metrics.{key}", f"is {shown(value)}; a measured value is a number from {bounds}")
    return TaskResult(**tree)


@dataclass(frozen=True)
class _Place:
    """Checks on one mapping of the file; every complaint names the file and the key."""

    path: Path
    prefix: str = ""

    def error(self, key: str, complaint: str) -> DataError:
        where = f"{self.prefix}.{key}" if self.prefix else key
        return DataError(f"{self.path}: {where} {complaint}")

    def fields(self, tree: Any, cls: type, extra: tuple[str, ...] = (), later: tuple[str, ...] = ()) -> dict[str, Any]:
        """The mapping as a dict of just these fields; `later` ones are None in files older than they are."""
        names = {f.name for f in dataclasses.fields(cls)} | set(extra)
        if not isinstance(tree, Mapping):
            raise DataError(f"{self.path}: {self.prefix or 'the file'} is not a mapping of keys to values")
        tree = dict.fromkeys(later) | dict(tree)
        if tree.keys() != names:
            unknown, missing = sorted(map(str, tree.keys() - names)), sorted(names - tree.keys())
            raise DataError(f"{self.path}: {self.prefix or 'the file'} has unknown keys {unknown}, lacks {missing}")
        return tree

    def check(
        self, tree: dict[str, Any], key: str, kind: type, *, optional: bool = False, low: float = -math.inf
    ) -> None:
        value = tree[key]
        if value is None and optional:
            return
        if not _is(value, kind):
            raise self.error(key, f"is {shown(value)}; it must be {_NAMES[kind]}")
        if kind in (int, float) and not low <= value <= MOST:
            raise self.error(key, f"is {shown(value)}; it must be a number of at least {low:g}")

    def check_not_above(self, tree: dict[str, Any], part: str, whole: str) -> None:
        """A count, or each of several, is at most that of what it is a part of, where both are given."""
        if tree[part] is None or tree[whole] is None:
            return
        parts, wholes = (value if isinstance(value, tuple) else (value,) for value in (tree[part], tree[whole]))
        if any(less > more for less, more in zip(parts, wholes, strict=True)):
            raise self.error(part, f"is {shown(tree[part])}, more than {whole}, which is {shown(tree[whole])}")

    def items(self, tree: dict[str, Any], key: str, kind: type) -> tuple[Any, ...]:
        value = tree[key]
        if not isinstance(value, list) or not all(_is(item, kind) for item in value):
            raise self.error(key, f"is {shown(value)}; it must be a list, each {_NAMES[kind]}")
        return tuple(value)

    def mapping(self, tree: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
        value = tree[key]
        if not isinstance(value, Mapping) or not all(isinstance(k, str) and _is(v, kind) for k, v in value.items()):
            raise self.error(key, f"is {shown(value)}; it must map names to values, each {_names(kind)}")
        return dict(value)


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """isinstance, except that True is no number, that an int passes as a float, and that numbers have their bounds."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int):
        return bool({int, float} & set(kinds)) and -MOST <= value <= MOST
    if isinstance(value, str):
        return str in kinds and is_text(value)
    return isinstance(value, kinds)


_NAMES = {str: "text", int: f"a whole number below {MOST:g}", float: "a number", bool: "true or false"}


def _names(kind: type | tuple[type, ...]) -> str:
    return " or ".join(_NAMES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
