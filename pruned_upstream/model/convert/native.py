"""An unpruned encoder back as a folder of transformers' own classes: `transformers.py` read backwards.

Written without transformers. What it has no class for (a pruned shape, prediction heads, a factor on the features) is
left to `transformers_plugin`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...files import atomic_write, write_text
from ..config import EncoderConfig
from ..encoder import Encoder
from ..hub import RELEASED
from .transformers import FAMILY_OF_MODEL_TYPE, POSITION_WEIGHTS, tensor_names

MODEL_TYPE_OF_FAMILY = {family: model_type for model_type, family in FAMILY_OF_MODEL_TYPE.items()}
ARCHITECTURES = {
    "wavlm": "WavLMModel",
    "hubert": "HubertModel",
    "wav2vec2": "Wav2Vec2Model",
    "data2vec-audio": "Data2VecAudioModel",
}
# of the names that torch's weight norm has had, the one that transformers writes today
OUTDATED = tuple(name for name in POSITION_WEIGHTS if name in ("weight_g", "weight_v"))


def exists_for(config: EncoderConfig) -> bool:
    """Whether transformers has a class that computes what this encoder computes."""
    relative = config.relative_position
    return (
        config.family in MODEL_TYPE_OF_FAMILY
        and config.is_dense
        and config.has_projection
        and not config.feature_scale
        and not config.prediction_heads
        and (config.feature_norm or config.family == "hubert")
        and (relative is not None and relative.gated if config.family == "wavlm" else relative is None)
    )


def write(folder: Path, encoder: Encoder) -> list[Path]:
    """config.json and model.safetensors.

    Raises:
        PrunedUpstreamError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    own = encoder.state_dict()
    names = {
        theirs: ours
        for theirs, ours in tensor_names(encoder.config).items()
        if ours in own and not theirs.endswith(OUTDATED)
    }
    tensors = {theirs: own[ours].detach().cpu().contiguous() for theirs, ours in names.items()}
    with atomic_write(folder / RELEASED) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(folder / "config.json", json.dumps(description(encoder.config), indent=1) + "\n")
    return [folder / RELEASED, folder / "config.json"]


def description(config: EncoderConfig) -> dict[str, Any]:
    """What stands in config.json; `transformers_config` reads it back to an equal shape."""
    model_type = MODEL_TYPE_OF_FAMILY[config.family]
    tree: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [ARCHITECTURES[model_type]],
        "dtype": "float32",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_dim,
        "conv_dim": [layer.channels for layer in config.conv],
        "conv_kernel": [layer.kernel for layer in config.conv],
        "conv_stride": [layer.stride for layer in config.conv],
        "num_feat_extract_layers": len(config.conv),
        "conv_bias": config.conv_bias,
        "feat_extract_norm": "layer" if config.extractor_mode == "layer_norm" else "group",
        "do_stable_layer_norm": config.layer_norm_first,
        "num_conv_pos_embedding_groups": config.conv_pos_groups,
        "mask_time_prob": 0.0,  # hidden frames need a learned vector, which an encoder of ours does not have
    }
    if config.family == "data2vec":
        tree["num_conv_pos_embeddings"] = config.conv_pos_depth
        tree["conv_pos_kernel_size"] = config.position_kernel
    else:
        tree["num_conv_pos_embeddings"] = config.conv_pos
    if config.relative_position is not None:
        tree["num_buckets"] = config.relative_position.buckets
        tree["max_bucket_distance"] = config.relative_position.max_distance
    if config.family == "hubert":
        tree["feat_proj_layer_norm"] = config.feature_norm
    return tree
