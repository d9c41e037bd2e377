"""The closed form counts what the built model has."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_config

from pruned_upstream.model.config import (
    Head,
    TransformerLayer,
    dense_config,
    hubert_base_config,
    wavlm_base_config,
    wavlm_large_config,
)
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters, parameters_by_part, prunable_parameters


def counted(config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Encoder(config).parameters())


def test_tiny_shapes(shape):
    assert count_parameters(shape) == counted(shape)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        # transformers 5 builds 94 381 936, 315 453 120 and 94 371 712: masked_spec_embed (768, 1024, 768) included
        (wavlm_base_config(), 94.381168),
        (wavlm_large_config(), 315.452096),
        (hubert_base_config(), 94.370944),
    ],
)
def test_published_shapes(config, millions):
    assert count_parameters(config) == counted(config)
    assert count_parameters(config) / 1e6 == pytest.approx(millions, abs=1e-9)


def test_the_papers_sparsity_is_a_share_of_85_million():
    assert prunable_parameters(wavlm_base_config()) == pytest.approx(85.02e6, rel=1e-4)
    fixed = parameters_by_part(wavlm_base_config())
    assert round(fixed["front_end"] / 1e6, 2) == 4.20
    assert round(fixed["position_convolution"] / 1e6, 2) == 4.72


def test_ragged_layers_and_missing_sublayers():
    layers = (
        TransformerLayer(True, (Head(1, 0, 3), Head(3, 5, 1)), True, 7),
        TransformerLayer(True, (), True, 0),
        TransformerLayer(False, (), False, 0),
    )
    config = dataclasses.replace(tiny_config(), layers=layers, feature_scale=True, prediction_heads=2)
    assert count_parameters(config) == counted(config)


def test_conv_bias_and_equal_widths_without_projection():
    config = dense_config(
        conv_layers=((24, 10, 5), (24, 2, 2)),
        num_layers=1,
        embed_dim=24,
        num_heads=4,
        ffn_dim=8,
        conv_bias=True,
        conv_pos=8,
        conv_pos_groups=4,
    )
    assert not config.has_projection
    assert count_parameters(config) == counted(config)
