"""The upstream in a checkpoint of s3prl's runner that was trained with `-f`: the encoder as the task left it.

Such a `states-N.ckpt` holds weights without their shape (`Upstream`), and the command line (`Args`), which names the
model file that was finetuned (s3prl 0.4.18, downstream/runner.py, `train`); the shape is read there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ..checkpoint import read_header
from .source import Found

PREFIX = "model."  # of the encoder inside our upstream (`s3prl_plugin/expert.py`)


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether s3prl's runner wrote it: states of an upstream and a downstream."""
    return {"Args", "Downstream", "Step"} <= checkpoint.keys()


def read(checkpoint: Mapping[str, Any], base: str | Path | None = None) -> Found:
    """The finetuned encoder.

    Args:
        base: the model file that was finetuned, where it is not any more where the training found it.

    Raises:
        ConfigError: nothing was finetuned, or not an upstream of ours.
        CheckpointError: the model file that was finetuned is missing or not one of ours.
    """
    options = vars(checkpoint["Args"])
    name, file = options.get("upstream"), options.get("upstream_ckpt")
    states = checkpoint.get("Upstream")
    if not isinstance(states, Mapping):
        raise ConfigError(
            f"it was trained without -f, so that its upstream is {name} unchanged{f', from {file}' if file else ''}; "
            "there is nothing to convert"
        )
    strange = [key for key in states if not (isinstance(key, str) and key.startswith(PREFIX))]
    source = base or file
    if strange or not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"its upstream {name} is not one of this package, of which alone the shape is known")
    if base is None and not Path(source).is_file():
        raise CheckpointError(
            f"the upstream was finetuned from {source}, which holds its shape and is not there; name the file with "
            "--base, or run the command in the folder in which the training ran"
        )
    config = read_header(os.fspath(source)).config
    return Found(config, {key.removeprefix(PREFIX): tensor for key, tensor in states.items()})
