"""What s3prl's runner is given by hand, looked at before it starts: overrides, configuration, splits, checkpoints.

s3prl takes all of it as it comes, and a mistake shows as Python's traceback, or hours later.
"""

from __future__ import annotations

import argparse
import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..model.safe_loading import allowed_by_torch
from ..parsing import MALFORMED, plain_file, require, shown
from .supply import Config, splits, value_at

RUNNER_COUNTS = ("total_steps", "log_step", "eval_step", "save_step", "max_keep", "gradient_accumulate_steps")
OVERRIDE = "-o takes config.section.key=value or args.key=value, several with ',,' between them"

Override = Callable[[str, argparse.Namespace, Config], None]


def check_overrides(text: str) -> None:
    """Raises ConfigError: `-o` is given something else than assignments, each with one equals sign."""
    for assignment in text.split(",,"):
        key, equals, value = (part.strip() for part in assignment.partition("="))
        first, *fields = key.split(".")
        if not equals or "=" in value or not all(fields):
            raise ConfigError(f"'{assignment}' overrides nothing: {OVERRIDE}; a value holds no '='")
        if first not in ("config", "args") or not fields or (first == "args" and len(fields) > 1):
            raise ConfigError(f"'{key}' is nothing to override: {OVERRIDE}")


def checked(override: Override) -> Override:
    """s3prl's `override`, which refuses a value of another kind than the one that it replaces."""

    def override_and_check(text: str, args: argparse.Namespace, config: Config) -> None:
        keys = [assignment.partition("=")[0].strip() for assignment in text.split(",,")]
        for key in keys:
            _check_sections(key, config)
        before = {"config": copy.deepcopy(config), "args": dict(vars(args))}
        override(text, args, config)
        after = {"config": config, "args": vars(args)}
        for key in keys:
            _check_kind(key, value_at(before, key), value_at(after, key))

    return override_and_check


def check_config(config: Config, *, training: bool) -> None:
    """Refuse a configuration that the runner would fail on.

    Raises:
        ConfigError: a part is missing, or has a value of another kind; the message names it.
    """
    for section in ("runner", "downstream_expert"):
        require(isinstance(config.get(section), dict), f"config.{section}", config.get(section), "hold keys")
    runner = config["runner"]
    ratio = runner.get("evaluate_ratio", 1)
    require(_is_number(ratio), "config.runner.evaluate_ratio", ratio, "be a number")
    if not training:
        return
    for key in RUNNER_COUNTS:
        value = runner.get(key)
        whole = _is_number(value) and value > 0 and value == int(value)
        require(whole, f"config.runner.{key}", value, "be a whole number above 0")
    clipping = runner.get("gradient_clipping")
    require(_is_number(clipping) and clipping > 0, "config.runner.gradient_clipping", clipping, "be a number above 0")
    half = runner.get("fp16", False)
    require(isinstance(half, bool), "config.runner.fp16", half, "be true or false, with -o True or False")
    _check_optimizer(config.get("optimizer"))


def check_splits(downstream: str, config: Config, *, split: str | None) -> None:
    """Refuse a split that the task has not: the one that is evaluated, or those that a training looks at.

    Args:
        split: what `-t` says; None in a training.
    """
    known = splits(downstream, config)
    if split is not None:
        if known is not None and split not in known:
            raise ConfigError(f"the task {downstream} has no split {split} for -t; it has {', '.join(known)}")
        return
    watched, key = config["runner"].get("eval_dataloaders"), "config.runner.eval_dataloaders"
    are_names = isinstance(watched, list | tuple) and all(isinstance(name, str) for name in watched)
    require(are_names, key, watched, "be a list of splits, such as ['dev', 'test']")
    unknown = [name for name in watched if known is not None and name not in known]
    require(not unknown, key, watched, f"name splits of the task, which has {', '.join(known or ())}")


def saved_checkpoints(folder: Path) -> list[Path]:
    """s3prl's states-STEP.ckpt by step."""
    return sorted(folder.glob("states-*.ckpt"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """STEP of states-STEP.ckpt."""
    return int(checkpoint.stem.rpartition("-")[2])


def read_states(path: Path) -> dict[str, Any]:
    """What a checkpoint of s3prl's runner holds, read by torch's safe loader; nothing in the file is run.

    Raises:
        CheckpointError: it is damaged, unsafe or something else.
    """
    import torch

    try:
        with allowed_by_torch(argparse.Namespace):
            states = torch.load(plain_file(path), map_location="cpu", weights_only=True)
    except (OSError, EOFError, pickle.UnpicklingError, *MALFORMED) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint of s3prl's runner (states-STEP.ckpt, dev-best.ckpt): it is another "
            "file, or was cut off"
        ) from error
    if not isinstance(states, dict):
        raise CheckpointError(f"{path} is not a checkpoint of s3prl's runner: it holds no Args")
    return states


def read_experiment(path: Path) -> dict[str, Any]:
    """As `read_states`; the checkpoint says which experiment it is of."""
    states = read_states(path)
    if not isinstance(states.get("Args"), argparse.Namespace):
        raise CheckpointError(f"{path} is not a checkpoint of s3prl's runner: it holds no Args")
    if not isinstance(states.get("Config"), Mapping):
        raise CheckpointError(f"{path} is not a checkpoint of s3prl's runner: it holds no Config")
    return states


def _check_optimizer(section: Any) -> None:
    import torch
    from s3prl import optimizers

    require(isinstance(section, dict), "config.optimizer", section, "hold keys")
    name = section.get("name")
    known = isinstance(name, str) and hasattr(optimizers, f"get_{name}")
    require(known, "config.optimizer.name", name, "be one of s3prl's, such as TorchOptim")
    if name == "TorchOptim":
        of_torch = section.get("torch_optim_name")
        known = isinstance(of_torch, str) and hasattr(torch.optim, of_torch)
        require(known, "config.optimizer.torch_optim_name", of_torch, "be an optimizer of torch.optim, such as Adam")
    rate = section.get("lr", 1e-4)
    hint = "be a number above 0; YAML takes 1.0e-4 for one, and 1e-4 for text"
    require(_is_number(rate) and rate > 0, "config.optimizer.lr", rate, hint)


def _check_sections(key: str, config: Config) -> None:
    """s3prl goes down into what holds no keys, too."""
    tree, (first, *sections) = config, key.split(".")[:-1]
    for section in sections if first == "config" else ():
        tree = tree.get(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{key} is nothing to override: {section} is {shown(tree)}, and holds no keys")


def _check_kind(key: str, old: Any, new: Any) -> None:
    if isinstance(old, bool):
        require(isinstance(new, bool), key, new, "be True or False")
    elif _is_number(old):
        require(_is_number(new), key, new, f"be a number, as {shown(old)}, which it replaces")
    elif isinstance(old, list):
        require(isinstance(new, list | tuple), key, new, f"be a list, as {shown(old)}, which it replaces")
    elif isinstance(old, dict):
        require(new is None or isinstance(new, dict), key, new, "hold keys")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
