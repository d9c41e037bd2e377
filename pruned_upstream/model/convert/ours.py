"""Folders of our own models in transformers' form, as `release`, `convert` and `save_pretrained` write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConfigError
from ..config import EncoderConfig
from .source import Found

PREFIX = "backbone."  # of the encoder's tensors where transformers wrote them; heads stand beside it


def read(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """The encoder of a configuration with our model type, whatever head stands on it.

    Raises:
        ConfigError: the configuration holds no encoder's shape.
    """
    if not isinstance(cfg.get("encoder"), Mapping):
        raise ConfigError("the key 'encoder' does not hold the shape of an encoder; write the folder anew")
    config = EncoderConfig.from_json(json.dumps(cfg["encoder"]))
    under_a_model = any(name.startswith(PREFIX) for name in tensors)
    own = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX) or not under_a_model}
    return Found(config, own)
