"""Whisper's encoder, from OpenAI's file and from a folder of transformers; the decoder is left out.

OpenAI's file is {"dims": numbers, "model_state_dict": weights} (openai/whisper, whisper/__init__.py and model.py on its
branch main).

| OpenAI | transformers, in `encoder.` | ours |
|---|---|---|
| `conv1`, `conv2` | the same | `feature_extractor.conv_layers.{0,1}.0` |
| `positional_embedding` | `embed_positions.weight` | `encoder.positions` |
| `blocks.{i}.attn.{query,key,value,out}` | `layers.{i}.self_attn.{q,k,v,out}_proj` | as transformers |
| `blocks.{i}.attn_ln`, `.mlp_ln` | `layers.{i}.self_attn_layer_norm`, `.final_layer_norm` | as transformers |
| `blocks.{i}.mlp.{0,2}` | `layers.{i}.fc{1,2}` | as transformers |
| `ln_post` | `layer_norm` | `encoder.layer_norm` |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConfigError
from ...parsing import shown
from ..checkpoint import assemble
from ..config import EncoderConfig, LogMel, whisper_config
from ..encoder import Encoder
from .pickles import plain
from .shapes import options_of, whole
from .source import Found

OF_OPENAI, OF_TRANSFORMERS = "encoder.", ("model.encoder.", "encoder.")
WHOLE = {"conv1": "feature_extractor.conv_layers.0.0", "conv2": "feature_extractor.conv_layers.1.0"}
IN_LAYER = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}
# of openai/whisper, whisper/model.py, class ModelDimensions -> argument of `whisper_config`
DIMENSIONS = {
    "n_audio_layer": "num_layers",
    "n_audio_state": "embed_dim",
    "n_audio_head": "num_heads",
    "n_audio_ctx": "positions",
}
# of transformers' WhisperConfig, with what its class supposes where a file leaves them out
OPTIONS = {
    "encoder_layers": ("num_layers", 4),
    "d_model": ("embed_dim", 384),
    "encoder_attention_heads": ("num_heads", 6),
    "encoder_ffn_dim": ("ffn_dim", 1536),
    "max_source_positions": ("positions", 1500),
}


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is OpenAI's Whisper."""
    return {"dims", "model_state_dict"} <= checkpoint.keys()


def read(checkpoint: Mapping[str, Any]) -> Found:
    """Raises ConfigError: a number is missing from the file's `dims`."""
    dims = options_of(plain(checkpoint["dims"]), "dims")
    missing = sorted({*DIMENSIONS, "n_mels"} - dims.keys())
    if missing:
        raise ConfigError(f"dims does not say {', '.join(missing)}, and a shape is not guessed")
    config = whisper_config(
        **{ours: whole(theirs, dims[theirs]) for theirs, ours in DIMENSIONS.items()},
        log_mel=LogMel(bands=whole("n_mels", dims["n_mels"])),
    )
    modules = WHOLE | {"ln_post": "encoder.layer_norm"}
    for i in range(config.num_layers):
        modules |= {f"blocks.{i}.{theirs}": f"encoder.layers.{i}.{ours}" for theirs, ours in IN_LAYER.items()}
    return _renamed(
        config, checkpoint["model_state_dict"], modules, {"positional_embedding": "encoder.positions"}, OF_OPENAI
    )


def read_transformers(cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Found:
    """Of a folder whose `config.json` is `cfg`. Raises ConfigError: another activation, or a tensor is unknown."""
    if cfg.get("activation_function", "gelu") != "gelu":
        raise ConfigError(
            f"activation_function {shown(cfg['activation_function'])} is not supported; Whisper's is gelu"
        )
    shape = {ours: whole(theirs, cfg.get(theirs, default)) for theirs, (ours, default) in OPTIONS.items()}
    config = whisper_config(**shape, log_mel=LogMel(bands=whole("num_mel_bins", cfg.get("num_mel_bins", 80))))
    modules = WHOLE | {"layer_norm": "encoder.layer_norm"}
    for i in range(config.num_layers):
        modules |= {f"layers.{i}.{name}": f"encoder.layers.{i}.{name}" for name in IN_LAYER.values()}
    prefix = next((p for p in OF_TRANSFORMERS if any(name.startswith(p) for name in weights)), "")
    return _renamed(config, weights, modules, {"embed_positions.weight": "encoder.positions"}, prefix)


def at_own_length(encoder: Encoder) -> Encoder:
    """The same weights, which hear a recording at its own length and not in a window filled up with silence.

    Raises:
        ConfigError: the model reads waveforms, and knows no windows.
    """
    log_mel = encoder.config.log_mel
    if log_mel is None:
        raise ConfigError(f"a {encoder.config.family} encoder always hears recordings at their own length")
    config = dataclasses.replace(encoder.config, log_mel=dataclasses.replace(log_mel, whole_windows=False))
    return assemble(config, encoder.state_dict(), source="the model")


def _renamed(
    config: EncoderConfig,
    weights: Mapping[str, Tensor],
    modules: Mapping[str, str],
    tensors: Mapping[str, str],
    prefix: str,
) -> Found:
    """The encoder's weights under our names; what does not begin with `prefix` is the decoder's, or a head's."""
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}
    names |= tensors
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    unknown = sorted(own.keys() - names.keys())
    if unknown:
        raise ConfigError(f"unknown tensors {shown(unknown)} in a Whisper encoder")
    return Found(config, {names[name]: tensor for name, tensor in own.items()})
