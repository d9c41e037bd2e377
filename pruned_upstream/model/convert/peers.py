"""Compact models of others, to be run and measured as ours are: DistilHuBERT, DPHuBERT and DPWavLM.

DistilHuBERT (Chang, Yang and Lee, ICASSP 2022), as s3prl trains and loads it: {"Config", "Distiller", ...}.

| s3prl, upstream/distiller/model.py | ours |
|---|---|
| `feature_extractor.*`, `post_extract_proj.*`, `encoder.*` | the same |
| (features are not normalised) | no `layer_norm` |
| `output_layer.{0,2}`: all prediction heads in one | `prediction_heads.{i}.{0,2}`, where they are kept |

DPHuBERT and DPWavLM (Peng, Sudo, Muhammad and Watanabe, Interspeech 2023): {"state_dict", "config", ...}, torchaudio's
wav2vec 2.0 with a width of its own in every layer (pyf98/DPHuBERT, wav2vec2/{model,components}.py, prune.py).

| pyf98/DPHuBERT | ours |
|---|---|
| torchaudio's names, in `encoder.feature_projection` and `encoder.transformer` | as in `transformers.py` |
| `feature_extractor.dummy_weight`, gates of the last convolution | `feature_extractor.scale` |
| `attention.gru_rel_pos_const`, one per head of the dense model | `grep_a`, one per living head |
| `encoder_remaining_heads` (WavLM), `encoder_num_heads` (others, whose heads' old numbers do not matter) | `heads` |
| convolutions and norms that forgot their removed channels | `norm_channels` equal to `channels` |

The file does not tell how wide the dense model was: its front end is taken for the published 512 channels (more where
the file has more), its feed-forward for four times the width. DiariZen's pruned WavLM (BUTSpeechFIT/DiariZen,
recipes/diar_ssl_pruning/apply_pruning.py, main) is such a file too; its weights are published under CC BY-NC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConfigError
from ..config import MAX_HEADS, ConvLayer, EncoderConfig, Head, RelativePosition, TransformerLayer, dense_config
from .pickles import plain
from .shapes import BASE, shape, whole
from .source import Found
from .transformers import POSITION_GATE, tensor_names

# --- DistilHuBERT ---------------------------------------------------------------------------------

HEADS = "output_layer"
# of s3prl's class DistillerConfig; its convolutions have no bias and its position convolution no depth
DISTILLER_DEFAULTS = BASE | {"encoder_layers": 1}


def recognises_distiller(checkpoint: Mapping[str, Any]) -> bool:
    """Whether s3prl's pretraining of DistilHuBERT wrote it."""
    return {"Config", "Distiller"} <= checkpoint.keys()


def read_distiller(checkpoint: Mapping[str, Any]) -> Found:
    """Shape and weights of DistilHuBERT; the prediction heads are named as ours are."""
    options = dict(plain(checkpoint["Config"])["distiller"])
    if "extractor_conv_feature_layers" in options:
        options["conv_feature_layers"] = options["extractor_conv_feature_layers"]
    config = dense_config(family="hubert", feature_norm=False, padding="exact", **shape(options, DISTILLER_DEFAULTS))
    weights = checkpoint["Distiller"]
    own = {name: tensor for name, tensor in weights.items() if name.partition(".")[0] != HEADS}
    heads = _prediction_heads(weights)
    return Found(dataclasses.replace(config, prediction_heads=len(heads) // 4), own | heads)


def _prediction_heads(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The heads one by one; none where the file has none, or has them in another form than the published one's.

    s3prl keeps them as one linear map to all heads' inner values, then a map for each head, transposed (`SplitLinear`).
    """
    found = [weights.get(f"{HEADS}.{place}.{kind}") for place in (0, 2) for kind in ("weight", "bias")]
    tensors = [tensor for tensor in found if isinstance(tensor, Tensor)]
    if len(tensors) != len(found) or tensors[2].dim() != 3:
        return {}
    inner, outer = tensors[:2], tensors[2:]
    count = len(outer[0])
    heads: dict[str, Tensor] = {}
    for i, (weight, bias) in enumerate(zip(inner[0].chunk(count), inner[1].chunk(count), strict=True)):
        heads |= {f"prediction_heads.{i}.0.weight": weight, f"prediction_heads.{i}.0.bias": bias}
        heads[f"prediction_heads.{i}.2.weight"] = outer[0][i].t()
        heads[f"prediction_heads.{i}.2.bias"] = outer[1].flatten(0, -2)[i]
    return heads


# --- DPHuBERT and DPWavLM -------------------------------------------------------------------------

EXTRACTOR_MODES = {"group_norm": "default", "layer_norm": "layer_norm"}
STILL_GATED = (
    "extractor_prune_conv_channels",
    "encoder_prune_attention_heads",
    "encoder_prune_attention_layer",
    "encoder_prune_feed_forward_intermediate",
    "encoder_prune_feed_forward_layer",
)
GATES_POSITIONS = ".attention.gru_rel_pos_"
FEATURE_SCALE = "feature_extractor.dummy_weight"
FFN_RATIO = 4  # of the dense layers' widths, which the file does not tell; so it is in every published model,
CHANNELS = 512  # and so are its convolutions


def recognises_dphubert(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is a pruned model of pyf98/DPHuBERT, or of DiariZen in its layout."""
    config = checkpoint.get("config")
    return "state_dict" in checkpoint and isinstance(config, dict) and "encoder_use_attention" in config


def read_dphubert(checkpoint: Mapping[str, Any]) -> Found:
    """Shape and weights of DPHuBERT, DPWavLM or DiariZen's pruned WavLM."""
    options = checkpoint["config"]
    weights: dict[str, Any] = dict(checkpoint["state_dict"])
    config = dphubert_config(options)
    transformer = "encoder.transformer."
    names = tensor_names(config, front_end="encoder.", encoder=transformer) | {FEATURE_SCALE: "feature_extractor.scale"}
    for i, layer in enumerate(config.layers):
        gate = f"{transformer}layers.{i}.{POSITION_GATE}"
        if gate in weights:
            weights[gate] = weights[gate][:, [head.id for head in layer.heads]]
    if config.relative_position is None:  # then the gates on the position bias gate nothing
        weights = {name: tensor for name, tensor in weights.items() if GATES_POSITIONS not in name}
    return Found(config, {names.get(name, name): tensor for name, tensor in weights.items()})


def dphubert_config(options: Mapping[str, Any]) -> EncoderConfig:
    """The shape in the `config` of a file of DPHuBERT's repository, pruned or not.

    Raises:
        ConfigError: an option is missing, the model still has gates, or a head for finetuning.
    """
    try:
        return _dphubert_config(options)
    except KeyError as error:
        raise ConfigError(f"the config does not say {error.args[0]}, and a shape is not guessed") from error


def _dphubert_config(options: Mapping[str, Any]) -> EncoderConfig:
    gated = [name for name in STILL_GATED if options.get(name)]
    if gated:
        raise ConfigError(f"the model still has its gates ({', '.join(gated)}); cut it with DPHuBERT's own prune.py")
    if options.get("aux_num_out") is not None:
        raise ConfigError("a model with a head (aux_num_out) is not an encoder")
    mode = EXTRACTOR_MODES.get(options["extractor_mode"])
    if mode is None:
        raise ConfigError(f"extractor_mode '{options['extractor_mode']}'; known are {', '.join(EXTRACTOR_MODES)}")
    d, is_wavlm = options["encoder_embed_dim"], "encoder_remaining_heads" in options
    if is_wavlm:
        width = d // options["encoder_total_num_heads"][0]
        living = options["encoder_remaining_heads"]
    else:
        width = options["encoder_head_dim"]
        counts = [whole("encoder_num_heads", count) for count in options["encoder_num_heads"]]
        if max(counts) > MAX_HEADS:
            raise ConfigError(f"encoder_num_heads says {max(counts)}; a layer has at most {MAX_HEADS}")
        living = [range(count) for count in counts]
    layers = tuple(
        TransformerLayer(
            attention=attends,
            heads=tuple(Head(i, width, width) for i in heads) if attends else (),
            feed_forward=feeds,
            ffn=ffn if feeds else 0,
        )
        for attends, heads, feeds, ffn in zip(
            options["encoder_use_attention"],
            living,
            options["encoder_use_feed_forward"],
            options["encoder_ff_interm_features"],
            strict=True,
        )
    )
    relative = None
    if is_wavlm and layers[0].attention:  # the first layer makes the position bias of all, if it attends
        relative = RelativePosition(options["encoder_num_buckets"], options["encoder_max_distance"], gated=True)
    return EncoderConfig(
        family="wavlm" if is_wavlm else "hubert",
        conv=tuple(
            ConvLayer(dim, kernel, stride, max(dim, CHANNELS), norm_channels=dim)
            for dim, kernel, stride in options["extractor_conv_layer_config"]
        ),
        extractor_mode=mode,
        conv_bias=options["extractor_conv_bias"],
        normalize=options["normalize_waveform"],
        embed_dim=d,
        num_heads=d // width,
        ffn_dim=max(FFN_RATIO * d, *options["encoder_ff_interm_features"]),
        layer_norm_first=options["encoder_layer_norm_first"],
        conv_pos=options["encoder_pos_conv_kernel"],
        conv_pos_groups=options["encoder_pos_conv_groups"],
        layers=layers,
        relative_position=relative,
        feature_scale=True,
        padding="exact",
    )
