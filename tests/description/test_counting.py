"""Layers are counted one way, from 1; layer 0 is the front end's output, hidden state 0."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_config

from pruned_upstream.description import anatomy
from pruned_upstream.errors import ConfigError, PrunedUpstreamError
from pruned_upstream.model.config import Head, TransformerLayer
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.parp.masks import place
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.gates import EncoderGates, LayerGates


def test_numbers_are_those_of_the_hidden_states():
    config = tiny_config()
    encoder = Encoder(config).eval()
    encoder.encoder.layers[1].register_forward_hook(lambda *_: heard.append(True))
    heard = []
    with torch.no_grad():
        states = encoder(torch.randn(1, 4000)).hidden_states
    assert heard and len(states) == config.num_layers + 1
    assert [layer.number for layer in anatomy.layer_anatomy(config)] == list(range(1, len(states)))


def test_the_second_module_is_layer_2_in_every_message():
    assert place("encoder.layers.1.fc1.weight") == (2, "fc1")
    wrong = TransformerLayer(True, (Head(0, 99, 1),), True, 1)
    config = tiny_config()
    with pytest.raises(ConfigError, match="layer 2: "):
        dataclasses.replace(config, layers=(config.layers[0], wrong, config.layers[2]))
    gates = EncoderGates([LayerGates(), LayerGates(ffn=torch.full((config.ffn_dim,), torch.nan)), LayerGates()])
    with pytest.raises(PrunedUpstreamError, match="layer 2, ffn"):
        compact(Encoder(config), gates)


def test_pictures_begin_with_layer_1():
    config = tiny_config()
    upright = anatomy.figure(config).axes[0]
    assert upright.get_yticks().tolist() == [1, 2, 3] and upright.get_ylim() == (0.5, 3.5)
    assert all(axes.lines[0].get_xdata()[0] == 1 for axes in anatomy.comparison({"dense": config}).axes)
