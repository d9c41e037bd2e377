"""Parameters of an encoder, in closed form from its shape.

The count is exact: it equals the sum over `Encoder(config).parameters()`. The papers' tables say 94.70M for
WavLM Base where the public model, counted so, has 94.38M; method tables name which count they show.
"""

from __future__ import annotations

from torch import nn

from .attention import GATE_WIDTH
from .config import EncoderConfig, TransformerLayer

PRUNABLE_PARTS = ("attention", "feed_forward")


def parameters_by_part(config: EncoderConfig) -> dict[str, int]:
    """Parameters of each part; the parts sum to `count_parameters`."""
    d = config.embed_dim
    table = config.relative_position.buckets * config.num_heads if config.relative_position else 0
    feature_norm = 2 * config.feature_dim if config.feature_norm else 0
    projection = config.feature_dim * d + d if config.has_projection else 0
    return {
        "front_end": front_end_parameters(config),
        "projection": feature_norm + projection,
        "position_convolution": _position_parameters(config),
        "position_bias": table,
        "attention": sum(attention_parameters(config, layer) for layer in config.layers),
        "feed_forward": sum(feed_forward_parameters(config, layer) for layer in config.layers),
        "layer_norms": 2 * d * (2 * config.num_layers + 1),
        "prediction_heads": config.prediction_heads * 2 * (d * d + d),
    }


def count_parameters(config: EncoderConfig) -> int:
    """Parameters of an encoder of this shape, computed and not built."""
    return sum(parameters_by_part(config).values())


def nonzero_parameters(module: nn.Module) -> int:
    """Parameters of a model that are not zero, as the official profiler of SUPERB reports them beside all."""
    return sum(int(parameter.count_nonzero()) for parameter in module.parameters())


def front_end_parameters(config: EncoderConfig) -> int:
    """Parameters of the convolutions and their norms."""
    total, in_channels = 0, config.input_channels
    for number, layer in enumerate(config.conv):
        total += layer.channels * (in_channels * layer.kernel + config.conv_bias)
        if has_norm(config, number):
            total += 2 * layer.channels
        in_channels = layer.channels
    return total + (in_channels if config.feature_scale else 0)


def has_norm(config: EncoderConfig, convolution: int) -> bool:
    """Whether a norm with an entry for each channel follows this convolution."""
    return config.extractor_mode == "layer_norm" or (config.extractor_mode == "default" and convolution == 0)


def attention_parameters(config: EncoderConfig, layer: TransformerLayer) -> int:
    """One attention sublayer: projections with their biases, and WavLM's position gate while a head lives."""
    if not layer.attention:
        return 0
    d = config.embed_dim
    total = d  # output bias
    total += layer.qk * (2 * d + 1 + config.key_bias) + layer.vo * (d + 1) + layer.vo * d
    if layer.heads and config.relative_position is not None and config.relative_position.gated:
        total += GATE_WIDTH * (config.head_dim + 1) + len(layer.heads)
    return total


def feed_forward_parameters(config: EncoderConfig, layer: TransformerLayer) -> int:
    """Parameters of a layer's feed-forward sublayer; 0 where it is gone."""
    if not layer.feed_forward:
        return 0
    d = config.embed_dim
    return layer.ffn * (d + 1) + layer.ffn * d + d


def _position_parameters(config: EncoderConfig) -> int:
    d, depth, kernel = config.embed_dim, config.conv_pos_depth, config.position_kernel
    scales = kernel if depth == 1 else 0  # of the weight norm
    return depth * (d * (d // config.conv_pos_groups) * kernel + d) + scales
