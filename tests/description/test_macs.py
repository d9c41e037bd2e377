"""MACs in closed form: published numbers, torch's own counter, and a count by hand."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager

import pytest
import torch
from tiny import SHAPES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pruned_upstream.description.macs import (
    BUCKET_SIZE,
    OFFICIAL_LENGTHS,
    Macs,
    count_macs,
    official_macs,
)
from pruned_upstream.errors import DataError
from pruned_upstream.model.config import (
    EncoderConfig,
    Head,
    Streaming,
    TransformerLayer,
    dense_config,
    hubert_base_config,
    wavlm_base_config,
    wavlm_large_config,
)
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters
from pruned_upstream.model.streaming import Carried, Memory, cut, mask


def test_the_official_utterances():
    # seconds of the first and last utterance of each bucket, and the sum, as the profiling script prints them
    edges = [OFFICIAL_LENGTHS[i] / 16000 for i in (0, 7, 8, 15, 16, 23, 24, 31)]
    assert edges == pytest.approx([1.28, 3.44, 3.69, 5.47, 5.79, 8.91, 9.62, 20.38], abs=0.0051)
    assert len(OFFICIAL_LENGTHS) == 32 and sum(OFFICIAL_LENGTHS) == 3_597_760
    assert list(OFFICIAL_LENGTHS) == sorted(OFFICIAL_LENGTHS)


def test_hubert_base_as_on_the_leaderboard():
    buckets = [macs.total / 1e9 for macs in official_macs(hubert_base_config())]
    assert buckets == pytest.approx([149.26, 261.28, 422.37, 836.25], rel=0.01)
    assert sum(buckets) == pytest.approx(1670, rel=0.01)


def test_wavlm_large_as_on_the_leaderboard():
    assert sum(macs.total for macs in official_macs(wavlm_large_config())) == pytest.approx(4326e9, rel=0.01)


def test_distilhubert_has_the_published_size():
    config = dense_config(family="hubert", num_layers=2)
    assert count_parameters(config) == pytest.approx(23.49e6, abs=5e3)


class Untracked(AbstractContextManager):
    """In place of the counter's tracker, which hooks every module; what is hooked is called, not computed faster."""

    parents = frozenset({"Global"})

    def __exit__(self, *exception) -> None:
        pass


def counted_by_torch(config: EncoderConfig, samples: int, compute=Encoder.forward) -> int:
    """On the meta device, where nothing is computed and no form that pays on a CPU alone is taken.

    torch's counter would hang hooks on modules, and with those the position gate computes the four summands of each
    output; without its tracker it hangs none.
    """
    with torch.device("meta"):
        encoder, waveforms = Encoder(config).eval().requires_grad_(False), torch.empty(1, samples)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Untracked()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        compute(encoder, waveforms)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("samples", [500, 1777])
def test_equals_torchs_counter(shape, samples):
    assert count_macs(shape, samples).total == counted_by_torch(shape, samples)


@pytest.mark.parametrize("config", [hubert_base_config(), wavlm_base_config(), wavlm_large_config()])
def test_equals_torchs_counter_at_full_size(config):
    assert count_macs(config, OFFICIAL_LENGTHS[0]).total == counted_by_torch(config, OFFICIAL_LENGTHS[0])


def test_equals_torchs_counter_when_whole_heads_dimensions_and_sublayers_are_gone():
    config = SHAPES["wavlm"]
    width = config.head_dim
    one_head = TransformerLayer(True, (Head(1, width, width),), True, 3)
    empty = TransformerLayer(True, (), True, 0)
    gone = TransformerLayer(False, (), False, 0)
    layers = ((one_head, empty, gone) * config.num_layers)[: config.num_layers]
    pruned = dataclasses.replace(config, layers=layers)
    assert count_macs(pruned, 1777).total == counted_by_torch(pruned, 1777)


STREAMING = [name for name, config in SHAPES.items() if config.log_mel is None]


def chunk_by_chunk(encoder: Encoder, waveforms: torch.Tensor) -> None:
    streaming = encoder.config.streaming
    carried = Carried(streaming.history, [Memory(streaming.history) for _ in encoder.config.layers])
    frames = encoder.config.frames(waveforms.size(1))
    for number, chunk in enumerate(cut(waveforms, encoder.config, streaming)[0]):
        encoder.hear(chunk, min(streaming.chunk, frames - number * streaming.chunk), carried)


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize(("samples", "history"), [(500, 3), (1777, 11), (1777, 0), (1777, 500)])
def test_a_streaming_model_counts_whole_and_streamed(name, samples, history):
    config = dataclasses.replace(SHAPES[name], streaming=Streaming(6, history))
    whole, streamed = count_macs(config, samples), count_macs(config, samples, streamed=True)
    assert whole.total == counted_by_torch(config, samples)
    assert streamed.total == counted_by_torch(config, samples, chunk_by_chunk)
    reached = mask(config.frames(samples), config.streaming, None, torch.device("cpu")).sum().item()
    assert streamed.attention_products == reached * sum(layer.qk + layer.vo for layer in config.layers)


def test_ragged_heads_count_their_own_widths():
    """By hand: d = 8, two heads of 4, one with 3 q/k and 1 v/o dimensions, one with none and 2; T = 10 frames."""
    config = dense_config(
        family="hubert", conv_layers=((6, 2, 2),), num_layers=1, embed_dim=8, num_heads=2, ffn_dim=16,
        conv_pos=4, conv_pos_groups=2,
    )  # fmt: skip
    layer = TransformerLayer(True, (Head(0, 3, 1), Head(1, 0, 2)), True, 5)
    macs = count_macs(dataclasses.replace(config, layers=(layer,)), samples=20)
    assert macs == Macs(
        front_end=10 * 6 * 1 * 2,
        projection=10 * 6 * 8,
        position_convolution=11 * 8 * 4 * 4,  # an even kernel computes an eleventh frame
        attention_projections=10 * 8 * (3 + 3 + 3 + 3),  # q, k, v, out
        attention_products=10 * 10 * (3 + 0) + 10 * 10 * (1 + 2),
        position_gate=0,
        feed_forward=2 * 10 * 8 * 5,
    )
    assert macs.total == 120 + 480 + 1408 + 960 + 600 + 800


def test_the_parts_of_a_bucket_are_the_sums_over_its_utterances(shape):
    first = official_macs(shape)[0]
    counts = [count_macs(shape, samples) for samples in OFFICIAL_LENGTHS[:BUCKET_SIZE]]
    assert first.front_end == sum(count.front_end for count in counts)
    assert first.total == sum(count.total for count in counts)


def test_an_utterance_without_a_frame_is_refused(shape):
    with pytest.raises(DataError, match="shorter than the receptive field"):
        count_macs(shape, 0 if shape.conv_padding else shape.receptive_field - 1)
