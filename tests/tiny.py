"""Tiny deterministic models, and how to compare hidden states; every room's tests use them."""

from __future__ import annotations

import math
from typing import Any

import torch

from pruned_upstream.model.config import EncoderConfig, LogMel, RelativePosition, dense_config, whisper_config
from pruned_upstream.model.encoder import Encoder

TINY_CONV = ((16, 10, 5), (16, 3, 2), (16, 2, 2))


def tiny_config(**changes) -> EncoderConfig:
    """Two heads short of nothing: 3 layers, 4 heads of 6, a 20-fold front end."""
    shape = dict(
        conv_layers=TINY_CONV,
        num_layers=3,
        embed_dim=24,
        num_heads=4,
        ffn_dim=40,
        conv_pos=8,
        conv_pos_groups=4,
        relative_position=RelativePosition(buckets=32, max_distance=40, gated=True),
    )
    return dense_config(**(shape | changes))


def tiny_whisper(*, whole_windows: bool) -> EncoderConfig:
    """As small, with windows of 60 frames of 20 samples: some recordings are longer."""
    return whisper_config(
        num_layers=3,
        embed_dim=24,
        num_heads=4,
        ffn_dim=40,
        positions=60,
        log_mel=LogMel(bands=16, n_fft=24, hop=10, whole_windows=whole_windows),
    )


SHAPES = {
    "wavlm": tiny_config(),
    "wavlm_prenorm": tiny_config(extractor_mode="layer_norm", normalize=True, layer_norm_first=True),
    "hubert": tiny_config(family="hubert", relative_position=None),
    "distilhubert": tiny_config(family="hubert", relative_position=None, feature_norm=False, padding="exact"),
    "wav2vec2_prenorm": tiny_config(
        family="wav2vec2",
        relative_position=None,
        extractor_mode="layer_norm",
        conv_bias=True,
        normalize=True,
        layer_norm_first=True,
    ),
    "data2vec": tiny_config(
        family="data2vec", relative_position=None, extractor_mode="layer_norm", normalize=True, conv_pos_depth=3
    ),
    "whisper": tiny_whisper(whole_windows=True),
    "whisper_own_length": tiny_whisper(whole_windows=False),
}


def random_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    """An encoder whose every parameter is random, norms and biases too, so that none can be forgotten unseen."""
    torch.manual_seed(seed)
    encoder = Encoder(config).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm.weight" in name or name.endswith(("weight_g", "grep_a", ".2.weight", ".2.1.weight")):
                parameter.uniform_(0.5, 1.5)
            elif parameter.dim() == 1:
                parameter.normal_(std=0.2)
            else:
                parameter.normal_(std=math.prod(parameter.shape[1:]) ** -0.5)
    return encoder


def unequal_waveforms(lengths: tuple[int, ...] = (1600, 1111, 640), seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) for length in lengths]


def largest_difference(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], padding_mask: torch.Tensor | None = None
) -> float:
    """Largest absolute difference over largest magnitude on valid frames, the worst of all hidden states."""
    assert len(ours) == len(theirs)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if padding_mask is not None:
            a, b = a[~padding_mask], b[~padding_mask]
        worst = max(worst, ((a - b).abs().max() / b.abs().max()).item())
    return worst


def fairseq_options(config: EncoderConfig) -> dict[str, Any]:
    """What a dense shape is called in fairseq, and in files of WavLM and s3prl after it."""
    return {
        "extractor_mode": config.extractor_mode,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.embed_dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.num_heads,
        "layer_norm_first": config.layer_norm_first,
        "conv_feature_layers": str([(c.channels, c.kernel, c.stride) for c in config.conv]),
        "conv_bias": config.conv_bias,
        "conv_pos": config.conv_pos,
        "conv_pos_groups": config.conv_pos_groups,
    }


def wavlm_checkpoint(encoder: Encoder) -> dict[str, dict]:
    """What a file of this WavLM holds in the form in which Microsoft published it and s3prl loads it."""
    config, state = encoder.config, dict(encoder.state_dict())
    table = "relative_attention_bias.weight"
    state[f"encoder.layers.0.self_attn.{table}"] = state.pop(f"encoder.{table}")
    state["mask_emb"] = torch.zeros(config.embed_dim)
    cfg = fairseq_options(config) | {
        "normalize": config.normalize,
        "relative_position_embedding": True,
        "num_buckets": config.relative_position.buckets,
        "max_distance": config.relative_position.max_distance,
        "gru_rel_pos": config.relative_position.gated,
    }
    return {"cfg": cfg, "model": state}
