"""The picture of what survives: every head and sublayer where it belongs, and the count of parameters."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console
from tiny import tiny_config

from pruned_upstream.description import anatomy
from pruned_upstream.model.config import EncoderConfig, Head, TransformerLayer, wavlm_large_config
from pruned_upstream.model.size import count_parameters, parameters_by_part


@pytest.fixture
def pruned() -> EncoderConfig:
    """Three layers of 4 heads of 6 and 40 FFN dimensions: ragged, bias only, and without attention."""
    return dataclasses.replace(
        tiny_config(),
        layers=(
            TransformerLayer(True, (Head(1, 0, 6), Head(3, 6, 1)), True, 20),
            TransformerLayer(True, (), True, 0),
            TransformerLayer(False, (), True, 40),
        ),
    )


def printed(config: EncoderConfig, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(anatomy.terminal_picture(config))
    return console.export_text().splitlines()


def test_each_head_stands_at_its_dense_place(pruned):
    lowest, middle, top = anatomy.layer_anatomy(pruned)
    assert (lowest.qk, lowest.vo, lowest.heads, lowest.ffn) == ((0, 0, 0, 6), (0, 6, 0, 1), 2, 20)
    assert (lowest.attention, lowest.feed_forward) == ("pruned", "pruned")
    assert (middle.attention, middle.feed_forward, middle.heads) == ("bias only", "bias only", 0)
    assert (top.attention, top.feed_forward) == ("gone", "whole")


def test_a_dense_layer_is_whole(shape):
    for layer in anatomy.layer_anatomy(shape):
        assert (layer.attention, layer.feed_forward, layer.heads) == ("whole", "whole", shape.num_heads)


def test_layers_and_the_fixed_parts_are_all_parameters(pruned):
    parts = parameters_by_part(pruned)
    fixed = sum(parts[part] for part in ("front_end", "projection", "position_convolution", "position_bias"))
    after_positions = 2 * pruned.embed_dim  # one layer norm that belongs to no layer
    layers = sum(layer.parameters for layer in anatomy.layer_anatomy(pruned))
    assert fixed + after_positions + layers == count_parameters(pruned)


def test_the_terminal_shows_heads_as_characters(pruned):
    lines = [line.split() for line in printed(pruned)]
    lowest, middle, top = (next(words for words in lines if words[:1] == [str(number)]) for number in range(1, 4))
    # a head without q/k is 0, a whole one full, 1 of 6 dimensions rounds up to two eighths
    assert lowest[1:6] == ["·0·█", "·█·▂", "2", "████░░░░", "20"]
    assert middle[1:5] == ["bias", "only", "bias", "only"]
    assert top[1:6] == ["gone", "gone", "0", "████████", "40"]


def test_a_single_dimension_is_never_rounded_away():
    config = wavlm_large_config()
    layer = TransformerLayer(True, (Head(0, 1, 1),), True, 1)
    lines = printed(dataclasses.replace(config, layers=(layer,) * 24), width=100)
    words = next(line.split() for line in lines if line.split()[:1] == ["1"])
    assert words[1] == "▁" + "·" * 15 and words[4] == "█" + "░" * 7


def test_the_figure_writes_every_living_width(pruned):
    pytest.importorskip("matplotlib")
    queries, values, *_ = anatomy.figure(pruned).axes
    assert [text.get_text() for text in queries.texts] == ["0", "6", "bias only", "gone"]
    assert [text.get_text() for text in values.texts] == ["6", "1", "bias only", "gone"]


def test_the_comparison_draws_what_survives_in_each_layer(pruned):
    pytest.importorskip("matplotlib")
    figure = anatomy.comparison({"pruned": pruned, "dense": pruned.densified()}, head=1)
    drawn = {
        axes.get_title(): {line.get_label(): list(line.get_ydata()) for line in axes.lines[:2]} for axes in figure.axes
    }
    assert drawn["entries of $W_V$ of head 1"] == {"pruned": [6 * 24, 0, 0], "dense": [6 * 24] * 3}
    assert drawn["heads"]["pruned"] == [2, 0, 0]
    assert drawn["q/k dimensions"]["pruned"] == [6, 0, 0]
    assert drawn["v/o dimensions"]["pruned"] == [7, 0, 0]
    assert drawn["FFN dimensions"]["pruned"] == [20, 0, 40]
    parameters = [layer.parameters / 1e6 for layer in anatomy.layer_anatomy(pruned)]
    assert drawn["parameters (M)"]["pruned"] == parameters
    assert not any("conv" in title for title in drawn)


def test_the_comparison_draws_channels_where_the_front_end_was_pruned(pruned):
    pytest.importorskip("matplotlib")
    first, *others = pruned.conv
    narrow = dataclasses.replace(pruned, conv=(dataclasses.replace(first, channels=5), *others))
    axes = anatomy.comparison({"narrow": narrow}).axes[-1]
    assert axes.get_title() == "channels of the convolutions"
    assert list(axes.lines[0].get_ydata()) == [5, 16, 16]


def test_entries_of_a_head_that_is_gone_are_none(pruned):
    assert anatomy.value_entries(pruned, 0) == [0, 0, 0]
    assert anatomy.value_entries(pruned, 3) == [24, 0, 0]
