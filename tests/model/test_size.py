"""The closed form counts what the built model has."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_config

from pruned_upstream.model.config import (
    Head,
    TransformerLayer,
    data2vec_base_config,
    dense_config,
    hubert_base_config,
    hubert_large_config,
    wav2vec2_base_config,
    wav2vec2_large_config,
    wavlm_base_config,
    wavlm_large_config,
)
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters, parameters_by_part
from pruned_upstream.pruning.cost import cost_of


def counted(config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Encoder(config).parameters())


def test_tiny_shapes(shape):
    assert count_parameters(shape) == counted(shape)


@pytest.mark.parametrize(
    ("config", "encoder", "pretraining"),
    [
        # left out of HuBERT: mask_emb, final_proj and embeddings of 504 clusters; of wav2vec 2.0: mask_emb, quantizer,
        # project_q and final_proj; of data2vec: mask_emb and final_proj. The sums are what fairseq's own classes count:
        # the 94.70M, 316.61M, 95.04M, 317.39M and 93.75M of published tables (SUPERB prints 94.68M for HuBERT Base)
        (hubert_base_config(), 94_370_944, 326_656),
        (hubert_large_config(), 315_434_112, 1_175_296),
        (wav2vec2_base_config(), 94_370_944, 673_664),
        (wav2vec2_large_config(), 315_437_696, 1_952_896),
        (data2vec_base_config(), 93_163_520, 591_360),
        # of WavLM mask_emb alone, in its public class; its tables' 94.70M and 316.62M count HuBERT's heads besides
        (wavlm_base_config(), 94_381_168, 768),
        (wavlm_large_config(), 315_452_096, 1024),
    ],
)
def test_published_shapes(config, encoder, pretraining):
    assert count_parameters(config) == counted(config) == encoder
    d = config.embed_dim
    target = 256 if d == 768 else 768
    to_targets = d * target + target
    quantizer = 640 * target // 2 + 512 * 640 + 640 + target * target + target
    heads = {
        "hubert": d + to_targets + 504 * target,
        "wav2vec2": d + to_targets + quantizer,
        "data2vec": d + d * d + d,
        "wavlm": d,
    }
    assert heads[config.family] == pretraining


def test_the_papers_sparsity_is_a_share_of_85_million():
    assert cost_of("transformer").counted(wavlm_base_config()) == pytest.approx(85.02e6, rel=1e-4)
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
