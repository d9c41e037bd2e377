"""What was trained, and where: an experiment of s3prl's runner, found in a folder and read safely.

The runner's checkpoint holds the command line (`Args`), the configuration (`Config`) and the weights of what was
trained (s3prl 0.4.18, downstream/runner.py); the frozen upstream is not in it but named there. QbE trains nothing, so
what is left of it are the files `args_*.yaml` and `config_*.yaml` that the runner writes into every folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ..errors import CheckpointError, ConfigError, DataError
from ..model.header import is_onnx
from ..parsing import read_mapping
from ..resources import downstream_config_path
from ..s3prl_plugin.registry import ANY_FAMILY
from ..superb.protocol import best_checkpoint
from ..superb.results import FILE_NAME, TaskResult, read_results
from ..superb.runner_input import read_experiment, saved_checkpoints
from ..superb.tasks import TASKS, Task

RUN_FILE = "run.yaml"
MODEL_SUFFIXES = (".safetensors", ".onnx")
SEARCH = "quesst14_dtw"


@dataclass(frozen=True)
class Experiment:
    """One training of one task.

    Attributes:
        source: the file it was read from, for messages.
        downstream: s3prl's name of the task.
        args: the command line it was trained with.
        config: its configuration.
        weights: "Featurizer", "Downstream", and "Upstream" where it was finetuned -> state dict.
        details: what a run chose after training, e.g. SD's threshold (`TaskResult.details`).
        remarks: what the reader of an answer should know.
    """

    source: Path
    downstream: str
    args: Mapping[str, Any]
    config: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task's name in `superb.tasks`; s3prl's `ctc` is PR, or SF where the symbols have slots."""
        if self.downstream == "ctc":
            return "sf" if "slot" in self.section("text").get("mode", "") else "pr"
        return next((name for name, task in TASKS.items() if task.downstream == self.downstream), self.downstream)

    def section(self, name: str) -> Mapping[str, Any]:
        """A section below `downstream_expert`.

        Raises:
            CheckpointError: there is none.
        """
        expert = self.config.get("downstream_expert")
        if not isinstance(expert, Mapping) or not isinstance(expert.get(name), Mapping):
            raise CheckpointError(f"the configuration in {self.source} has no section downstream_expert.{name}")
        return expert[name]


def find(place: str | Path, *, layer: int | None = None) -> list[Experiment]:
    """The experiments behind a path; several for ER, whose folds answer together.

    Args:
        place: a task's folder in a run folder of `superb`; an experiment folder of s3prl's runner (its `-p`); one of
            its checkpoints; or a model file, which alone can only search (QbE).
        layer: the hidden state that QbE compares, for a model file.

    Raises:
        DataError: there is nothing trained, or the task of a run is not finished.
        CheckpointError: a file that is no checkpoint of s3prl's runner.
    """
    place = Path(place)
    if place.is_file():
        return [_search_with(place, layer) if _is_model(place) else read_checkpoint(place)]
    if not place.is_dir():
        raise DataError(f"there is no {place}; name a task's folder of a run, an experiment folder, or a checkpoint")
    if (place / RUN_FILE).is_file():
        tasks = [name for name in TASKS if (place / name / FILE_NAME).is_file()]
        raise DataError(
            f"{place} is a whole run; name one of its finished tasks: "
            f"{', '.join(str(place / name) for name in tasks) or 'there is none yet'}"
        )
    if (place / FILE_NAME).is_file():
        return _of_run(place)
    return [_by_hand(place)]


def read_checkpoint(path: Path) -> Experiment:
    """A checkpoint of s3prl's runner, read by torch's safe loader; nothing in the file is run.

    Raises:
        CheckpointError: it is damaged, unsafe or something else.
    """
    states = read_experiment(path)
    if missing := [name for name in ("Featurizer", "Downstream") if not isinstance(states.get(name), Mapping)]:
        raise CheckpointError(f"{path} is not a checkpoint of s3prl's runner: it holds no {missing[0]}")
    args = vars(states["Args"])
    if not isinstance(args.get("downstream"), str):
        raise CheckpointError(f"{path} does not say which task it was trained on")
    weights: dict[str, Mapping[str, torch.Tensor]] = {
        name: states[name] for name in ("Upstream", "Featurizer", "Downstream") if name in states
    }
    return Experiment(path, args["downstream"], args, states["Config"], weights)


def _is_model(path: Path) -> bool:
    return path.suffix in MODEL_SUFFIXES or is_onnx(path)


def _of_run(folder: Path) -> list[Experiment]:
    """The trainings that the finished task's numbers rest on (the choices of `superb.protocol`)."""
    results = read_results(folder)
    if len(results.tasks) != 1:
        raise DataError(f"{folder / FILE_NAME} holds {len(results.tasks)} tasks; name the folder of one")
    ((name, result),) = results.tasks.items()
    task = TASKS[name]
    if task.steps is None:
        return [_with_details(_untrained(_stage(folder, result)), result)]
    found = [_read_best(path, task, result) for path in _trainings(folder, task, result)]
    return [_with_details(experiment, result) for experiment in found]


def _trainings(folder: Path, task: Task, result: TaskResult) -> list[Path]:
    rate = result.details.get("learning rate")
    searched = folder if rate is None else folder / f"lr-{float(rate):g}"
    if task.protocol != "folds":
        return [searched / "train"]
    return [searched / Path(of_fold).parts[-2] / "train" for of_fold in result.folders]


def _stage(folder: Path, result: TaskResult) -> Path:
    if not result.folders:
        raise DataError(f"{folder / FILE_NAME} names no folder that its numbers came from")
    return folder.parent / result.folders[0]


def _read_best(training: Path, task: Task, result: TaskResult) -> Experiment:
    if not training.is_dir():
        raise DataError(f"{training} is not there any more; without its checkpoint the task cannot answer")
    chosen = result.details.get("checkpoint")
    if chosen is not None:
        return read_checkpoint(training / str(chosen))
    path, remarks = best_checkpoint(training, task)
    return dataclasses.replace(read_checkpoint(path), remarks=tuple(remarks))


def _with_details(experiment: Experiment, result: TaskResult) -> Experiment:
    return dataclasses.replace(experiment, details=result.details)


def _by_hand(folder: Path) -> Experiment:
    """An experiment folder of s3prl's runner: the best checkpoint, else the last."""
    best = [folder / task.best_checkpoint for task in TASKS.values() if task.best_checkpoint is not None]
    for path in dict.fromkeys(best):
        if path.is_file():
            return read_checkpoint(path)
    if saved := saved_checkpoints(folder):
        remark = f"the last checkpoint, {saved[-1].name}: the folder has no best one"
        return dataclasses.replace(read_checkpoint(saved[-1]), remarks=(remark,))
    if list(folder.glob("args_*.yaml")):
        return _untrained(folder)
    if below := [path for path in _subfolders(folder) if saved_checkpoints(path)]:
        raise DataError(f"{folder} is not finished; {below[0]} holds checkpoints of a training, if one of them will do")
    raise DataError(f"{folder} holds no checkpoint *.ckpt, and no results of a finished task")


def _subfolders(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("train") if path.is_dir())


def _untrained(folder: Path) -> Experiment:
    """An evaluation without training, from the command line and configuration that the runner wrote down."""
    args, config = (_newest(folder, kind) for kind in ("args", "config"))
    if args.get("downstream") != SEARCH:
        raise DataError(f"{folder} holds no checkpoint *.ckpt, and the task {args.get('downstream')} needs one")
    return Experiment(folder, SEARCH, args, config)


def _newest(folder: Path, kind: str) -> Mapping[str, Any]:
    written = sorted(folder.glob(f"{kind}_*.yaml"), key=lambda path: path.stat().st_mtime)
    if not written:
        raise DataError(f"{folder} holds no {kind}_*.yaml, which s3prl's runner writes")
    return read_mapping(written[-1])


def _search_with(model: Path, layer: int | None) -> Experiment:
    """QbE with a model file alone, as the shipped configuration has it."""
    if layer is None:
        raise ConfigError(
            f"{model} is a model without a trained task; it can search for a query, with --layer N to say which hidden "
            "state to compare (a finished task qbe knows its best)"
        )
    config = yaml.safe_load(downstream_config_path("qbe").read_text(encoding="utf-8"))
    args = {
        "upstream": ANY_FAMILY,
        "upstream_ckpt": str(model),
        "upstream_feature_selection": "hidden_states",
        "upstream_layer_selection": layer,
        "downstream": SEARCH,
    }
    return Experiment(model, SEARCH, args, config)
