"""State dicts of torchaudio's wav2vec 2.0, HuBERT and WavLM, as `torch.save(model.state_dict(), path)` writes them.

Such a file holds tensors alone, so of its shape only what the published bundles have in common is accepted
(pytorch/audio, src/torchaudio/models/wav2vec2/model.py, main): a layer norm behind every convolution goes with norms
before the sublayers and with normalised waveforms, and the width tells the number of heads. wav2vec 2.0 and HuBERT
compute the same and cannot be told apart: both are read as wav2vec 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConfigError
from ..config import CONV_FEATURE_LAYERS, EncoderConfig, dense_config, wavlm_base_config
from .source import Found
from .transformers import tensor_names

PROJECTION = "encoder.feature_projection.projection.weight"
TABLE = "encoder.transformer.layers.0.attention.rel_attn_embed.weight"
HEADS_OF_WIDTH = {768: 12, 1024: 16, 1280: 16}  # Base, Large, XLarge
FINETUNED_HEAD = "aux."
ATTENTION = ".attention.attention."  # WavLM's layers hold torch's own attention inside theirs
TRANSFORMER = "encoder.transformer."
LAYERS = f"{TRANSFORMER}layers."


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is a state dict of torchaudio's wav2vec 2.0 classes."""
    return PROJECTION in checkpoint


def read(checkpoint: Mapping[str, Any]) -> Found:
    """Raises ConfigError for a shape that no published bundle has."""
    weights = {name: tensor for name, tensor in checkpoint.items() if not name.startswith(FINETUNED_HEAD)}
    config = _config(weights)
    names = tensor_names(config, front_end="encoder.", encoder=TRANSFORMER)
    return Found(config, {names.get(name, name): tensor for name, tensor in _split(weights).items()})


def _config(weights: Mapping[str, Tensor]) -> EncoderConfig:
    width, channels = weights[PROJECTION].shape
    heads = HEADS_OF_WIDTH.get(width)
    dense = tuple((channels, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    if heads is None or channels != dense[0][0]:
        known = ", ".join(map(str, HEADS_OF_WIDTH))
        raise ConfigError(f"{channels} channels and a width of {width}; torchaudio's bundles have 512 and {known}")
    layer_norms = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    layers = {name.removeprefix(LAYERS).partition(".")[0] for name in weights if name.startswith(LAYERS)}
    is_wavlm = TABLE in weights
    return dense_config(
        family="wavlm" if is_wavlm else "wav2vec2",
        conv_layers=dense,
        num_layers=len(layers),
        embed_dim=width,
        num_heads=heads,
        ffn_dim=weights[f"{LAYERS}0.feed_forward.intermediate_dense.bias"].numel(),
        extractor_mode="layer_norm" if layer_norms else "default",
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in weights,
        normalize=layer_norms,
        layer_norm_first=layer_norms,
        relative_position=wavlm_base_config().relative_position if is_wavlm else None,
        padding="exact",
    )


def _split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v by themselves, which torch's attention of WavLM's layers has in one."""
    split: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        place, inside, rest = name.partition(ATTENTION)
        if not inside:
            split[name] = tensor
        elif rest.startswith("in_proj_"):
            kind = rest.removeprefix("in_proj_")
            parts = zip("qkv", tensor.chunk(3), strict=True)
            split |= {f"{place}.attention.{projection}_proj.{kind}": part for projection, part in parts}
        else:
            split[f"{place}.attention.{rest}"] = tensor
    return split
