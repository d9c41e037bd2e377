"""Folders that transformers writes: WavLM, HuBERT, wav2vec 2.0 and data2vec audio; Whisper's names are in `whisper.py`.

torchaudio's wav2vec 2.0 names its modules alike, so DPHuBERT's files (`peers.py`) are read with the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...parsing import MALFORMED, is_text, read_json, shown
from ..config import EncoderConfig, RelativePosition, dense_config
from ..header import check_readable
from ..hub import MODEL_TYPE
from . import ours, whisper
from .pickles import read_pickle
from .shapes import flag, options_of, whole, word
from .source import Found

FAMILY_OF_MODEL_TYPE = {"wavlm": "wavlm", "hubert": "hubert", "wav2vec2": "wav2vec2", "data2vec-audio": "data2vec"}

WHISPER = "whisper"
NORM_EPS = 1e-5  # as torch has it

# transformers' name of a module -> ours; {norm} is where the norm of a convolution sits in fairseq's Sequential
FRONT_END = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
}
IN_CONV_BLOCK = {"conv": "0", "layer_norm": "{norm}"}
IN_LAYER = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.out_proj",
    "attention.gru_rel_pos_linear": "self_attn.grep_linear",
    "layer_norm": "self_attn_layer_norm",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "final_layer_norm": "final_layer_norm",
}
# names before and after torch's parametrised weight norm
POSITION_WEIGHTS = {
    "weight_g": "weight_g",
    "weight_v": "weight_v",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "bias": "bias",
}
POSITION_GATE = "attention.gru_rel_pos_const"
POSITION_TABLE = "layers.0.attention.rel_attn_embed.weight"
# of the convolutions: channels, kernels and strides
CONV_LISTS = {
    "conv_dim": (512,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}
PRETRAINING_ONLY = ("masked_spec_embed",)
PREFIXES = ("wavlm.", "hubert.", "wav2vec2.", "data2vec_audio.")  # of an encoder under a head


def read_folder(folder: Path) -> Found:
    """The encoder in a folder with config.json and model.safetensors or pytorch_model.bin, whole or in parts.

    Raises:
        CheckpointError: one of them is missing or damaged, the model is of another kind, or a tensor is unknown.
    """
    description = folder / "config.json"
    if not description.is_file():
        raise CheckpointError(f"{folder} is a folder without config.json; name a model file or a transformers folder")
    try:
        cfg = options_of(read_json(description), "what the file holds")
        if cfg.get("model_type") == MODEL_TYPE:
            return ours.read(cfg, _weights(folder))
        if cfg.get("model_type") == WHISPER:
            return whisper.read_transformers(cfg, _weights(folder))
        config = transformers_config(cfg)
    except OSError as error:
        raise CheckpointError(f"{description} cannot be read: {error.strerror}") from error
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{description} does not describe an encoder: {error}") from error
    foreign = _weights(folder)
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in foreign)), "")
    names = tensor_names(config)
    tensors, unknown = {}, []
    for name, tensor in foreign.items():
        if prefix and not name.startswith(prefix):
            continue  # a head on top of the encoder (CTC, quantiser): another model's business
        own = name.removeprefix(prefix)
        if own in names:
            tensors[names[own]] = tensor
        elif own not in PRETRAINING_ONLY:
            unknown.append(own)
    if unknown:
        raise CheckpointError(f"{folder}: unknown tensors {shown(sorted(unknown))} in a {cfg['model_type']} encoder")
    for name, tensor in tensors.items():
        if name.endswith("grep_a") and tensor.layout == torch.strided:
            tensors[name] = tensor.reshape(1, -1, 1, 1)
    return Found(config, tensors)


def transformers_config(cfg: Mapping[str, Any]) -> EncoderConfig:
    """The shape in a transformers `config.json`.

    Waveforms are normalised exactly when the front end has layer norms: so fairseq trained every published
    model (its task's `normalize`), whatever a folder's preprocessor says.

    Raises:
        ConfigError: another model type, activation, norm or adapter.
    """
    family = FAMILY_OF_MODEL_TYPE.get(word("model_type", cfg.get("model_type", "")))
    if family is None:
        known = ", ".join([*FAMILY_OF_MODEL_TYPE, WHISPER])
        raise ConfigError(f"model_type {shown(cfg.get('model_type'))}; known are {known}")
    for key in ("hidden_act", "feat_extract_activation"):
        if cfg.get(key, "gelu") != "gelu":
            raise ConfigError(f"{key} {shown(cfg[key])} is not supported; the published encoders use gelu")
    if cfg.get("feat_extract_norm", "group") not in ("group", "layer"):
        raise ConfigError(
            f"feat_extract_norm {shown(cfg['feat_extract_norm'])} is not supported; there are group, layer"
        )
    if cfg.get("layer_norm_eps", NORM_EPS) != NORM_EPS:
        raise ConfigError(
            f"layer_norm_eps {shown(cfg['layer_norm_eps'])} is not supported; the published encoders use {NORM_EPS}"
        )
    if cfg.get("add_adapter"):
        raise ConfigError("models with an adapter are not supported")
    pre_norm = flag("do_stable_layer_norm", cfg.get("do_stable_layer_norm", False))
    if cfg.get("adapter_attn_dim") is not None and pre_norm:  # without pre-norms transformers builds none
        raise ConfigError(
            f"adapter_attn_dim {shown(cfg['adapter_attn_dim'])}: behind every feed-forward this model adds the adapter "
            "of a language (MMS), a layer norm and two linear maps with a ReLU between them. No weight of an encoder "
            "can take in what is not linear, so adapters cannot be folded; convert the model that was pre-trained "
            "without them"
        )

    def count(key: str, default: int) -> int:
        return whole(key, cfg.get(key, default))

    relative = None
    if family == "wavlm":
        relative = RelativePosition(count("num_buckets", 320), count("max_bucket_distance", 800), True)
    layer_norms = cfg.get("feat_extract_norm", "group") == "layer" or family == "data2vec"
    depth = count("num_conv_pos_embeddings", 5) if family == "data2vec" else 1
    kernel = count("conv_pos_kernel_size", 19) * depth
    if family != "data2vec":
        kernel = count("num_conv_pos_embeddings", 128)
    return dense_config(
        family=family,
        conv_layers=_conv_layers(cfg),
        num_layers=count("num_hidden_layers", 12),
        embed_dim=count("hidden_size", 768),
        num_heads=count("num_attention_heads", 12),
        ffn_dim=count("intermediate_size", 3072),
        extractor_mode="layer_norm" if layer_norms else "default",
        conv_bias=flag("conv_bias", cfg.get("conv_bias", False)),
        normalize=layer_norms,
        layer_norm_first=pre_norm,
        conv_pos=kernel,
        conv_pos_groups=count("num_conv_pos_embedding_groups", 16),
        conv_pos_depth=depth,
        relative_position=relative,
        feature_norm=flag("feat_proj_layer_norm", cfg.get("feat_proj_layer_norm", True)) or family != "hubert",
    )


def _conv_layers(cfg: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    lists = {key: cfg.get(key, default) for key, default in CONV_LISTS.items()}
    for key, sizes in lists.items():
        if not isinstance(sizes, list | tuple):
            raise ConfigError(f"{key} is {shown(sizes)}; it must list a number for each convolution")
    lengths = {key: len(sizes) for key, sizes in lists.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"{', '.join(lengths)} list {', '.join(map(str, lengths.values()))} convolutions")
    counts = ([whole(key, size) for size in sizes] for key, sizes in lists.items())
    return tuple(zip(*counts, strict=True))


def tensor_names(config: EncoderConfig, *, front_end: str = "", encoder: str = "encoder.") -> dict[str, str]:
    """The name of every tensor of the encoder -> ours.

    Args:
        front_end: what stands before the norm and projection of the features.
        encoder: what stands before the transformer's modules.
    """
    norm = "2.1" if config.extractor_mode == "layer_norm" else "2"
    modules = {f"{front_end}{theirs}": ours for theirs, ours in FRONT_END.items()}
    modules[f"{encoder}layer_norm"] = "encoder.layer_norm"
    for i in range(len(config.conv)):
        block = f"feature_extractor.conv_layers.{i}."
        modules |= {block + theirs: block + ours.format(norm=norm) for theirs, ours in IN_CONV_BLOCK.items()}
    for i in range(config.num_layers):
        modules |= {f"{encoder}layers.{i}.{theirs}": f"encoder.layers.{i}.{ours}" for theirs, ours in IN_LAYER.items()}
    if config.conv_pos_depth > 1:
        for i in range(config.conv_pos_depth):
            modules[f"{encoder}pos_conv_embed.layers.{i}.conv"] = f"encoder.pos_conv.{i}.0"
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}
    if config.conv_pos_depth == 1:
        for theirs, ours in POSITION_WEIGHTS.items():
            names[f"{encoder}pos_conv_embed.conv.{theirs}"] = f"encoder.pos_conv.0.{ours}"
    for i in range(config.num_layers):
        names[f"{encoder}layers.{i}.{POSITION_GATE}"] = f"encoder.layers.{i}.self_attn.grep_a"
    names[encoder + POSITION_TABLE] = "encoder.relative_attention_bias.weight"
    return names


def _weights(folder: Path) -> dict[str, Tensor]:
    """The weights, of one file or of several that an index lists."""
    for name, read in WEIGHTS.items():
        if (folder / name).is_file():
            return read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _sharded(folder / f"{name}.index.json", read)
    raise CheckpointError(f"{folder} has neither {' nor '.join(WEIGHTS)}, nor an index of parts (*.index.json)")


def _sharded(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `weight_map` of an index names, each from the file beside it that holds it."""
    try:
        tree = read_json(index)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{index} cannot be read: {error}") from error
    places = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(part, str) and Path(part).name == part for part in places.values()
    ):
        raise CheckpointError(f"{index} has no weight_map from the names of tensors to files beside it")
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        held = read(index.parent / part)
        listed = {name for name, place in places.items() if place == part}
        if held.keys() != listed:
            odd = sorted(map(str, held.keys() ^ listed))
            raise CheckpointError(f"{index.parent / part} does not hold what {index.name} says: {shown(odd)}")
        tensors |= held
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, *MALFORMED) as error:
        raise CheckpointError(f"{path} is damaged ({shown(str(error))}); download it again") from error


def _pickled(path: Path) -> dict[str, Tensor]:
    tensors = read_pickle(path)
    if not isinstance(tensors, dict) or not all(is_text(n) and isinstance(t, Tensor) for n, t in tensors.items()):
        raise CheckpointError(f"{path} does not hold tensors by name; download it again")
    return tensors


WEIGHTS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "model.safetensors": _safetensors,
    "pytorch_model.bin": _pickled,
}
