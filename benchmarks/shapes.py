"""The compact shapes that are timed: of WavLM Base, with the 26.57M parameters of the paper's model."""

from __future__ import annotations

import dataclasses
import random

from pruned_upstream.model.config import EncoderConfig, Head, TransformerLayer, light_front_end, wavlm_base_config
from pruned_upstream.model.size import count_parameters

PARAMETERS = 26_570_000
CONV_CHANNELS = (192, 256, 288, 320, 352, 384, 448)  # what is left of 512 channels where the front end is pruned


def whole_heads(heads_of_layers: tuple[int, ...] = (3, 4) * 6) -> EncoderConfig:
    """Some heads at their full width, as pruning without fine-grained heads leaves them."""
    dense = wavlm_base_config()
    width = dense.head_dim
    return _filled(dense, [tuple(Head(i, width, width) for i in range(count)) for count in heads_of_layers])


def fine_grained(seed: int = 0) -> EncoderConfig:
    """Six to ten heads a layer, each with its own q/k and v/o width, as fine-grained pruning leaves them."""
    draw = random.Random(seed)
    dense = wavlm_base_config()
    layers = []
    for _ in range(dense.num_layers):
        ids = sorted(draw.sample(range(dense.num_heads), draw.randint(6, 10)))
        layers.append(tuple(Head(i, draw.randint(4, 40), draw.randint(8, 48)) for i in ids))
    return _filled(dense, layers)


def conv_pruned() -> EncoderConfig:
    """Whole heads and fewer front-end channels, with a larger transformer for the same total."""
    dense = wavlm_base_config()
    conv = tuple(
        dataclasses.replace(layer, channels=channels) for layer, channels in zip(dense.conv, CONV_CHANNELS, strict=True)
    )
    heads = whole_heads((4, 4) * 6).layers
    return _filled(dataclasses.replace(dense, conv=conv), [layer.heads for layer in heads])


def light() -> EncoderConfig:
    """The paper's transformer behind a light front end: smaller by the convolutions that it has less."""
    return light_front_end(fine_grained())


def light_whole_heads() -> EncoderConfig:
    return light_front_end(whole_heads())


def _filled(config: EncoderConfig, heads: list[tuple[Head, ...]]) -> EncoderConfig:
    """The encoder with these heads whose feed-forward width, alike in all layers, brings it to `PARAMETERS`."""

    def with_width(ffn: int) -> EncoderConfig:
        layers = tuple(TransformerLayer(True, layer_heads, True, ffn) for layer_heads in heads)
        return dataclasses.replace(config, layers=layers)

    rest = PARAMETERS - count_parameters(with_width(1))
    return with_width(1 + rest // (config.num_layers * (2 * config.embed_dim + 1)))
