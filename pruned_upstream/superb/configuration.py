"""From the shipped yaml of a task to the one that a run uses: the user's paths, and a shorter training if asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..resources import downstream_config_path
from .short import SHORT
from .tasks import Task

Config = dict[str, Any]

EVALUATIONS = 4
"""How often a shortened training is evaluated and saved."""
KEPT_CHECKPOINTS = 2
"""s3prl deletes before it saves: with one, as its yaml files say, a kill in between would leave none."""


def resolve(
    task: Task,
    paths: Mapping[str, Any],
    *,
    steps: int | None = None,
    lr: float | None = None,
    short: bool = False,
    loader_workers: int | None = None,
) -> tuple[Config, list[str]]:
    """The configuration of one run, and why its result will not be official.

    Args:
        paths: what replaces the yaml's paths, nested as there.
        steps: optimisation steps instead of the official number.
        lr: learning rate instead of the yaml's; tuning it is allowed by the benchmark.
        short: the task's short training (`short.py`); `steps` and `lr` still win.
        loader_workers: at most so many data loading processes.
    """
    config = yaml.safe_load(downstream_config_path(task.name).read_text(encoding="utf-8"))
    merge(config, paths)
    deviations = []
    if task.steps is not None:
        if short:
            deviations.append("the short training's batches and heads")
            for key, value in SHORT[task.name].overrides.items():
                assign(config, key, value)
        wanted = steps or (SHORT[task.name].steps if short else task.steps)
        if wanted != task.steps:
            deviations.append(f"{wanted} training steps instead of {task.steps}")
            _shorten(config["runner"], wanted, SHORT[task.name].evaluations if short else EVALUATIONS)
        config["runner"]["max_keep"] = max(config["runner"]["max_keep"], KEPT_CHECKPOINTS)
        if lr is not None:
            config["optimizer"]["lr"] = lr
    if loader_workers is not None:
        for section in _sections_with(config, "num_workers"):
            section["num_workers"] = min(section["num_workers"], loader_workers)
    return config, deviations


def _shorten(runner: Config, steps: int, evaluations: int) -> None:
    interval = max(1, steps // evaluations)
    runner["total_steps"] = steps
    for key in ("eval_step", "save_step", "log_step"):
        runner[key] = min(runner[key], interval)
    # SID and ER look at the test set while they train; nothing depends on it, and here it would be most of the time
    runner["eval_dataloaders"] = [split for split in runner["eval_dataloaders"] if split != "test"]


def merge(config: Config, changes: Mapping[str, Any]) -> None:
    """Replace values of a nested configuration, in place."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = copy.deepcopy(value)


def assign(config: Config, key: str, value: Any) -> None:
    """Set `a.b.c` of a nested configuration, in place."""
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[last] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`a.b: 1 -> 2` for every value that differs."""
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before} -> {after}"


def _sections_with(config: Config, key: str) -> Iterator[Config]:
    if key in config:
        yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _sections_with(value, key)
