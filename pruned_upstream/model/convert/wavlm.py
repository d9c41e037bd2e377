"""WavLM as Microsoft published it: {"cfg": options, "model": weights}.

Our names are its names (microsoft/unilm, wavlm/WavLM.py), but for one table:

| WavLM | ours |
|---|---|
| `encoder.layers.0.self_attn.relative_attention_bias.weight` | `encoder.relative_attention_bias.weight` |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import EncoderConfig, RelativePosition, dense_config
from .fairseq import without_pretraining
from .pickles import plain
from .shapes import BASE, flag, options_of, shape, whole
from .source import Found

RENAMED = {"encoder.layers.0.self_attn.relative_attention_bias.weight": "encoder.relative_attention_bias.weight"}


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is Microsoft's file: a `cfg` of WavLM's own options, with none of fairseq's groups."""
    cfg = plain(checkpoint.get("cfg"))
    return "model" in checkpoint and isinstance(cfg, dict) and "model" not in cfg


def read(checkpoint: Mapping[str, Any]) -> Found:
    """Shape and weights of WavLM, what only its pretraining used left out."""
    tensors = without_pretraining(checkpoint["model"])
    return Found(wavlm_config(plain(checkpoint["cfg"])), {RENAMED.get(name, name): t for name, t in tensors.items()})


def wavlm_config(cfg: Mapping[str, Any]) -> EncoderConfig:
    """The shape in a WavLM checkpoint's `cfg`.

    Raises:
        ConfigError: an option that changes the function and is not one WavLM was published with.
    """
    cfg = options_of(cfg, "'cfg'")
    relative = None
    if flag("relative_position_embedding", cfg.get("relative_position_embedding", False)):
        relative = RelativePosition(
            buckets=whole("num_buckets", cfg.get("num_buckets", 320)),
            max_distance=whole("max_distance", cfg.get("max_distance", 1280)),
            gated=flag("gru_rel_pos", cfg.get("gru_rel_pos", False)),
        )
    normalize = flag("normalize", cfg.get("normalize", False))
    return dense_config(family="wavlm", normalize=normalize, relative_position=relative, **shape(cfg, BASE))
