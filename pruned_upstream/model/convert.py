"""Foreign checkpoints: WavLM as Microsoft published it, and transformers folders of all four families.

Every key of a foreign file is accounted for: it becomes one of our tensors, or it is on the short list of
what only pre-training uses, or loading stops and names it. Nothing is unpickled but tensors and plain
containers, and a string is never evaluated.
"""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .checkpoint import assemble, check_readable, load
from .config import CONV_FEATURE_LAYERS, EncoderConfig, RelativePosition, dense_config
from .encoder import Dropout, Encoder

# heads and embeddings of pre-training that no downstream use reads
PRETRAINING_ONLY = ("mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias")
BIAS_TABLE = "relative_attention_bias.weight"


def load_teacher(path: str | Path, *, dropout: Dropout = Dropout()) -> Encoder:
    """The encoder of a published checkpoint, in evaluation mode.

    Args:
        path: WavLM's `.pt` ({"cfg", "model"}), a transformers folder (wavlm, hubert, wav2vec2,
            data2vec-audio), or a file of our own.

    Raises:
        CheckpointError: missing, truncated or foreign file, a pickle that holds more than tensors, keys or
            shapes that do not fit.
    """
    path = Path(path)
    if path.is_dir():
        return _load_transformers(path, dropout)
    check_readable(path)
    if path.suffix == ".safetensors":
        return load(path, dropout=dropout)
    return _load_wavlm(path, dropout)


# --- WavLM's own files ----------------------------------------------------------------------------


def _load_wavlm(path: Path, dropout: Dropout) -> Encoder:
    checkpoint = _safe_torch_load(path)
    if not isinstance(checkpoint, dict) or not {"cfg", "model"} <= checkpoint.keys():
        found = sorted(checkpoint)[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CheckpointError(f"{path} is not a WavLM checkpoint: it wants the keys 'cfg' and 'model', found {found}")
    try:
        config = wavlm_config(checkpoint["cfg"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors = dict(_without_pretraining(checkpoint["model"]))
    layer_table = f"encoder.layers.0.self_attn.{BIAS_TABLE}"
    if layer_table in tensors:
        tensors[f"encoder.{BIAS_TABLE}"] = tensors.pop(layer_table)
    return assemble(config, tensors, source=str(path), dropout=dropout)


def wavlm_config(cfg: Mapping[str, Any]) -> EncoderConfig:
    """The shape in a WavLM checkpoint's `cfg`; absent keys take the defaults of the public WavLMConfig.

    Source: microsoft/unilm, wavlm/WavLM.py (class WavLMConfig).

    Raises:
        ConfigError: an option that changes the function and is not one WavLM was published with.
    """
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"'cfg' is not a dictionary but {type(cfg).__name__}")
    if cfg.get("activation_fn", "gelu") != "gelu":
        raise ConfigError(f"activation_fn '{cfg['activation_fn']}' is not supported; WavLM uses gelu")
    relative = None
    if cfg.get("relative_position_embedding", False):
        relative = RelativePosition(
            buckets=int(cfg.get("num_buckets", 320)),
            max_distance=int(cfg.get("max_distance", 1280)),
            gated=bool(cfg.get("gru_rel_pos", False)),
        )
    return dense_config(
        family="wavlm",
        conv_layers=parse_conv_layers(cfg["conv_feature_layers"])
        if "conv_feature_layers" in cfg
        else CONV_FEATURE_LAYERS,
        num_layers=int(cfg.get("encoder_layers", 12)),
        embed_dim=int(cfg.get("encoder_embed_dim", 768)),
        num_heads=int(cfg.get("encoder_attention_heads", 12)),
        ffn_dim=int(cfg.get("encoder_ffn_embed_dim", 3072)),
        extractor_mode=cfg.get("extractor_mode", "default"),
        conv_bias=bool(cfg.get("conv_bias", False)),
        normalize=bool(cfg.get("normalize", False)),
        layer_norm_first=bool(cfg.get("layer_norm_first", False)),
        conv_pos=int(cfg.get("conv_pos", 128)),
        conv_pos_groups=int(cfg.get("conv_pos_groups", 16)),
        relative_position=relative,
    )


def parse_conv_layers(text: str) -> tuple[tuple[int, int, int], ...]:
    """The convolutions in fairseq's notation, lists of (dim, kernel, stride) joined by + and repeated by *.

    >>> parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
    ((512, 10, 5), (512, 3, 2), (512, 3, 2))

    Raises:
        ConfigError: anything else; the string is parsed, never run.
    """
    try:
        blocks = _conv_list(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"conv_feature_layers {text!r} is not a list of (dim, kernel, stride)") from error
    for block in blocks:
        if not (isinstance(block, tuple) and len(block) == 3 and all(isinstance(n, int) for n in block)):
            raise ConfigError(f"conv_feature_layers {text!r}: {block!r} is not (dim, kernel, stride)")
    return tuple(blocks)


def _conv_list(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _conv_list(node.left) + _conv_list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = ast.literal_eval(node.right)
        if not isinstance(times, int) or not 1 <= times <= 64:
            raise ValueError(f"a list repeated {times} times")
        return _conv_list(node.left) * times
    return list(ast.literal_eval(node))


# --- transformers folders -------------------------------------------------------------------------

FAMILY_OF_MODEL_TYPE = {"wavlm": "wavlm", "hubert": "hubert", "wav2vec2": "wav2vec2", "data2vec-audio": "data2vec"}

# transformers' name of a module -> ours; {norm} is where the norm of a convolution sits in fairseq's Sequential
TOP_LEVEL = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.layer_norm": "encoder.layer_norm",
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
# transformers before and after torch's parametrised weight norm
POSITION_WEIGHTS = {
    "weight_g": "weight_g",
    "weight_v": "weight_v",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "bias": "bias",
}
TRANSFORMERS_PRETRAINING_ONLY = ("masked_spec_embed",)
PREFIXES = ("wavlm.", "hubert.", "wav2vec2.", "data2vec_audio.")


def _load_transformers(folder: Path, dropout: Dropout) -> Encoder:
    description = folder / "config.json"
    if not description.is_file():
        raise CheckpointError(f"{folder} is a folder without config.json; name a model file or a transformers folder")
    try:
        cfg = json.loads(description.read_text(encoding="utf-8"))
        config = transformers_config(cfg)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{description} is not JSON: {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{description}: {error}") from error
    foreign = _transformers_weights(folder)
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in foreign)), "")
    names = transformers_names(config)
    tensors, unknown = {}, []
    for name, tensor in foreign.items():
        if prefix and not name.startswith(prefix):
            continue  # a head on top of the encoder (CTC, quantiser): another model's business
        own = name.removeprefix(prefix)
        if own in names:
            tensors[names[own]] = tensor
        elif own not in TRANSFORMERS_PRETRAINING_ONLY:
            unknown.append(own)
    if unknown:
        raise CheckpointError(f"{folder}: unknown tensors {sorted(unknown)[:4]} in a {cfg['model_type']} encoder")
    grep = [name for name in tensors if name.endswith("grep_a")]
    tensors.update({name: tensors[name].reshape(1, -1, 1, 1) for name in grep})
    return assemble(config, tensors, source=str(folder), dropout=dropout)


def transformers_config(cfg: Mapping[str, Any]) -> EncoderConfig:
    """The shape in a transformers `config.json`.

    Waveforms are normalised exactly when the front end has layer norms: so fairseq trained every published
    model (its task's `normalize`), whatever a folder's preprocessor says.

    Raises:
        ConfigError: another model type, activation or adapter.
    """
    family = FAMILY_OF_MODEL_TYPE.get(cfg.get("model_type", ""))
    if family is None:
        raise ConfigError(f"model_type '{cfg.get('model_type')}'; known are {', '.join(FAMILY_OF_MODEL_TYPE)}")
    for key in ("hidden_act", "feat_extract_activation"):
        if cfg.get(key, "gelu") != "gelu":
            raise ConfigError(f"{key} '{cfg[key]}' is not supported; the published encoders use gelu")
    if cfg.get("add_adapter"):
        raise ConfigError("models with an adapter are not supported")
    relative = None
    if family == "wavlm":
        relative = RelativePosition(int(cfg.get("num_buckets", 320)), int(cfg.get("max_bucket_distance", 800)), True)
    layer_norms = cfg.get("feat_extract_norm", "group") == "layer" or family == "data2vec"
    depth = int(cfg.get("num_conv_pos_embeddings", 5)) if family == "data2vec" else 1
    kernel = int(cfg.get("conv_pos_kernel_size", 19)) * depth
    if family != "data2vec":
        kernel = int(cfg.get("num_conv_pos_embeddings", 128))
    return dense_config(
        family=family,
        conv_layers=tuple(
            zip(
                cfg.get("conv_dim", (512,) * 7),
                cfg.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
                cfg.get("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
                strict=True,
            )
        ),
        num_layers=int(cfg.get("num_hidden_layers", 12)),
        embed_dim=int(cfg.get("hidden_size", 768)),
        num_heads=int(cfg.get("num_attention_heads", 12)),
        ffn_dim=int(cfg.get("intermediate_size", 3072)),
        extractor_mode="layer_norm" if layer_norms else "default",
        conv_bias=bool(cfg.get("conv_bias", False)),
        normalize=layer_norms,
        layer_norm_first=bool(cfg.get("do_stable_layer_norm", False)),
        conv_pos=kernel,
        conv_pos_groups=int(cfg.get("num_conv_pos_embedding_groups", 16)),
        conv_pos_depth=depth,
        relative_position=relative,
    )


def transformers_names(config: EncoderConfig) -> dict[str, str]:
    """transformers' name of every tensor of the encoder -> ours."""
    norm = "2.1" if config.extractor_mode == "layer_norm" else "2"
    modules = dict(TOP_LEVEL)
    for i in range(len(config.conv)):
        for theirs, ours in IN_CONV_BLOCK.items():
            modules[f"feature_extractor.conv_layers.{i}.{theirs}"] = (
                f"feature_extractor.conv_layers.{i}.{ours.format(norm=norm)}"
            )
    for i in range(config.num_layers):
        for theirs, ours in IN_LAYER.items():
            modules[f"encoder.layers.{i}.{theirs}"] = f"encoder.layers.{i}.{ours}"
    if config.conv_pos_depth > 1:
        for i in range(config.conv_pos_depth):
            modules[f"encoder.pos_conv_embed.layers.{i}.conv"] = f"encoder.pos_conv.{i}.0"
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}
    if config.conv_pos_depth == 1:
        for theirs, ours in POSITION_WEIGHTS.items():
            names[f"encoder.pos_conv_embed.conv.{theirs}"] = f"encoder.pos_conv.0.{ours}"
    for i in range(config.num_layers):
        names[f"encoder.layers.{i}.attention.gru_rel_pos_const"] = f"encoder.layers.{i}.self_attn.grep_a"
    names["encoder.layers.0.attention.rel_attn_embed.weight"] = f"encoder.{BIAS_TABLE}"
    return names


def _transformers_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safetensors, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safetensors.is_file():
        check_readable(safetensors)
        try:
            return load_file(safetensors)
        except SafetensorError as error:
            raise CheckpointError(f"{safetensors} is damaged ({error}); download it again") from error
    if pickled.is_file():
        return _safe_torch_load(pickled)
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


# --- shared ---------------------------------------------------------------------------------------


def _without_pretraining(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in tensors.items() if name not in PRETRAINING_ONLY)


def _safe_torch_load(path: Path) -> Any:
    """torch.load with its safe unpickler: tensors and plain containers, nothing that runs."""
    check_readable(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain checkpoint: it is truncated, no checkpoint at all, or a pickle that holds more "
            "than tensors and could run code, so it was not opened"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); download it again") from error
