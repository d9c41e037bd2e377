"""The fast forms of the forward pass: what is padded, fused, folded or transformed computes the plain thing."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms
from torch import nn

from pruned_upstream.model import attention
from pruned_upstream.model import encoder as encoder_module
from pruned_upstream.model.attention import SelfAttention, position_buckets, relative_position_bias
from pruned_upstream.model.config import (
    CONV_FEATURE_LAYERS,
    ConvLayer,
    Head,
    Streaming,
    TransformerLayer,
    light_front_end,
)
from pruned_upstream.model.encoder import Dropout
from pruned_upstream.model.frontend import ChannelNorm, WeightNormConv, normalised_convolution, time_major_convolution

RAGGED = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1), Head(3, 0, 4)), True, 7),  # head 3 attends by position alone
    TransformerLayer(True, (), True, 0),  # two sublayers that are their output bias
    TransformerLayer(False, (), False, 0),
)


def ragged_config(**changes):
    return dataclasses.replace(tiny_config(), layers=RAGGED, **changes)


@pytest.fixture
def ragged():
    return random_encoder(ragged_config())


def looped_attention(module: SelfAttention, x, position_bias, key_bias):
    """The definition: one head after another, each with its own width."""
    out = module.out_proj.bias.expand_as(x)
    qk_start = vo_start = 0
    for number, head in enumerate(module.heads):
        qk, vo = slice(qk_start, qk_start + head.qk), slice(vo_start, vo_start + head.vo)
        qk_start, vo_start = qk.stop, vo.stop
        query = F.linear(x, module.q_proj.weight[qk], module.q_proj.bias[qk])
        key = F.linear(x, module.k_proj.weight[qk], module.k_proj.bias[qk])
        scores = query @ key.transpose(1, 2) * module.head_dim**-0.5  # (B, T, T)
        own = x[..., head.id * module.head_dim : (head.id + 1) * module.head_dim]
        update, reset = torch.sigmoid(module.grep_linear(own).unflatten(-1, (2, 4)).sum(-1)).unbind(-1)  # (B, T)
        gate = update * (reset * module.grep_a[0, number, 0, 0] - 1) + 2
        scores = scores + gate.unsqueeze(-1) * position_bias[head.id] + key_bias[:, 0]
        value = F.linear(x, module.v_proj.weight[vo], module.v_proj.bias[vo])
        out = out + scores.softmax(-1) @ value @ module.out_proj.weight[:, vo].t()
    return out


head_widths = st.tuples(st.integers(0, 6), st.integers(0, 6))


@settings(max_examples=30, deadline=None)
@given(st.lists(head_widths, min_size=4, max_size=4).filter(lambda widths: any(vo for _, vo in widths)))
@pytest.mark.parametrize("windows", [True, False], ids=["as on a CPU", "as on a GPU"])
def test_padded_heads_equal_a_loop_over_heads(windows, widths):
    heads = tuple(Head(i, qk, vo) for i, (qk, vo) in enumerate(widths) if vo)
    layer = TransformerLayer(True, heads, True, 7)
    encoder = random_encoder(dataclasses.replace(tiny_config(), layers=(layer,)))
    module = encoder.encoder.layers[0].self_attn
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 9, 24, generator=generator)
    relative = encoder.config.relative_position
    table = torch.randn(relative.buckets, 4, generator=generator)
    distances = torch.arange(9) - torch.arange(9).unsqueeze(1)  # key minus query
    laid_out = table[position_buckets(distances, relative)].permute(2, 0, 1)  # (4, 9, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "windows_pay", lambda tensor: windows)
        position_bias = relative_position_bias(nn.Embedding.from_pretrained(table), 9, relative)
    assert position_bias.backwards == windows
    key_bias = torch.zeros(2, 1, 1, 9)
    key_bias[1, ..., 6:] = -torch.inf
    expected = looped_attention(module, x, laid_out, key_bias)
    torch.testing.assert_close(module(x, position_bias, key_bias), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(module(x, position_bias, key_bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunks", [None, 0.02], ids=["whole", "in chunks"])
@pytest.mark.parametrize("layers", [None, RAGGED], ids=["dense", "ragged"])
def test_position_biases_laid_out_as_on_a_gpu_change_nothing(layers, chunks, monkeypatch):
    config = tiny_config() if layers is None else dataclasses.replace(tiny_config(), layers=layers)
    if chunks is not None:
        config = dataclasses.replace(config, streaming=Streaming(chunk=3, history=4))
    encoder = random_encoder(config)
    waveforms, lengths = encoder.prepare(unequal_waveforms())
    with torch.inference_mode():
        windows = encoder(waveforms, lengths).hidden_states
        for module in (attention, encoder_module):
            monkeypatch.setattr(module, "windows_pay", lambda tensor: False)
        monkeypatch.setattr(attention, "eager_on_cpu", lambda tensor: False)
        laid_out = encoder(waveforms, lengths).hidden_states
    torch.testing.assert_close(laid_out, windows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("layers", [None, RAGGED], ids=["dense", "ragged"])
def test_gradients_change_nothing(name, layers):
    encoder = random_encoder(SHAPES[name] if layers is None else dataclasses.replace(SHAPES[name], layers=layers))
    waveforms, lengths = encoder.prepare(unequal_waveforms())
    with torch.no_grad():
        expected = encoder(waveforms, lengths).hidden_states  # derives the weights
        kept = encoder(waveforms, lengths).hidden_states
    with torch.inference_mode():
        inference = encoder(waveforms, lengths).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(kept + inference, expected + expected, strict=True))
    evaluating = encoder(waveforms, lengths).hidden_states
    training = encoder.train()(waveforms, lengths).hidden_states  # nothing is dropped by default
    for states in (evaluating, training):  # another attention kernel, and the front end in the layout of training
        assert largest_difference(states, expected) < 5e-6


def replaced(encoder, wanted):
    encoder.load_state_dict(wanted.state_dict(), assign=True)


def overwritten(encoder, wanted):
    encoder.load_state_dict(wanted.state_dict())


def swapped(encoder, wanted):
    for parameter, value in zip(encoder.parameters(), wanted.parameters(), strict=True):
        parameter.data = value.detach().clone()


def trained(encoder, wanted):
    """The step of a fused optimiser, which leaves the parameters' versions alone."""
    with torch.enable_grad():
        encoder(torch.randn(1, 800)).hidden_states[-1].sum().backward()
    for parameter, value in zip(encoder.parameters(), wanted.parameters(), strict=True):
        parameter.grad = parameter.detach() - value.detach()
    torch.optim.SGD(encoder.parameters(), lr=1.0, fused=True).step()


@pytest.mark.parametrize("change", [replaced, overwritten, swapped, trained])
@torch.no_grad()
def test_kept_weights_go_when_parameters_change(ragged, change):
    wanted = random_encoder(ragged.config, seed=5)
    waveforms = torch.randn(2, 1600, generator=torch.Generator().manual_seed(3))
    before = ragged(waveforms).hidden_states
    change(ragged, wanted)
    after, expected = ragged(waveforms).hidden_states, wanted(waveforms).hidden_states
    assert largest_difference(after, expected) < 1e-5
    assert largest_difference(before, expected) > 0.1


@torch.no_grad()
def test_rounding_and_back_is_seen(ragged):
    waveforms = torch.randn(2, 1600, generator=torch.Generator().manual_seed(3))
    exact = ragged(waveforms).hidden_states
    rounded = ragged.bfloat16().float()(waveforms).hidden_states
    assert largest_difference(rounded, exact) > 1e-4


def test_an_address_taken_again_is_not_mistaken_for_the_old_parameter():
    """The allocator likes to give a freed block back: a parameter there would look like the one it replaced."""
    conv = WeightNormConv(8, 4, 2)
    conv.reset_parameters()
    x = torch.randn(1, 8, 10)
    with torch.no_grad():
        for _ in range(20):
            conv(x)
            values = torch.randn(8, 4, 4)
            conv.weight_v = None
            conv.weight_v = nn.Parameter(values.clone())
            reference = copy.deepcopy(conv)
            assert torch.equal(conv(x), reference(x))


def test_input_gradients_after_inference_mode(ragged):
    ragged.requires_grad_(False)
    waveforms = torch.randn(1, 1600)
    with torch.inference_mode():
        ragged(waveforms)
    waveforms.requires_grad_()
    ragged(waveforms).hidden_states[-1].sum().backward()
    assert waveforms.grad.abs().sum() > 0


@torch.no_grad()
def test_copies_and_files_hold_the_ragged_parameters_alone(ragged):
    waveforms = torch.randn(2, 1600)
    expected = ragged(waveforms).hidden_states
    names = {name for name, _ in ragged.named_parameters()}
    assert set(ragged.state_dict()) == names
    assert ragged.encoder.layers[0].self_attn.q_proj.weight.shape == (9, 24)  # 3 + 6 + 0 rows, none of them padding
    fresh = len(pickle.dumps(random_encoder(ragged.config)))
    for copied in (copy.deepcopy(ragged), pickle.loads(pickle.dumps(ragged))):
        assert abs(len(pickle.dumps(copied)) - fresh) < 500  # the smallest kept weight alone is larger
        assert largest_difference(copied(waveforms).hidden_states, expected) == 0


def test_every_parameter_learns_through_the_padded_heads(ragged):
    waveforms, lengths = ragged.prepare(unequal_waveforms())
    sum(state.square().sum() for state in ragged(waveforms, lengths).hidden_states).backward()
    silent = {name for name, p in ragged.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # a key bias moves all scores of a query alike; it is zero only up to rounding, so it need not be listed
    assert silent <= {"encoder.layers.0.self_attn.k_proj.bias"}


@pytest.mark.parametrize("frames", [1, 5, 12, 13, 40])
@pytest.mark.parametrize("kernel", [4, 5, 8])
def test_position_convolution_in_the_frequency_domain(frames, kernel):
    torch.manual_seed(0)
    conv = WeightNormConv(12, kernel, 3)
    conv.reset_parameters()
    nn.init.uniform_(conv.weight_g, 0.5, 1.5)
    nn.init.normal_(conv.bias)
    plain = nn.utils.weight_norm(nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3), dim=2)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 12, frames)
    expected = F.gelu(plain(x)[..., :frames])
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
    conv(x).square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(conv.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_group_norm_folded_into_the_filters(bias, offset):
    torch.manual_seed(0)
    convolution = nn.Conv1d(1, 16, 10, stride=5, bias=bias)
    norm = nn.GroupNorm(16, 16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 1, 1007).cumsum(-1) * 0.05 + offset  # like speech, strong where the frequency is low
    x[1, :, 500:] = 0
    x[2] = 0  # digital silence has no variance
    weights = torch.randn(3, 16, 200)
    exact_convolution, exact_norm = copy.deepcopy(convolution).double(), copy.deepcopy(norm).double()
    expected = exact_norm(exact_convolution(x.double()))
    out = normalised_convolution(x.transpose(1, 2), convolution, norm).transpose(1, 2)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)
    (expected * weights).sum().backward()
    (out * weights).sum().backward()
    ours = (convolution.weight, norm.weight, norm.bias)
    exact = (exact_convolution.weight, exact_norm.weight, exact_norm.bias)
    for parameter, reference in zip(ours, exact, strict=True):
        error = (parameter.grad - reference.grad).abs().max() / reference.grad.abs().max()
        assert error < 1e-4


@given(
    channels=st.integers(1, 3),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    spare=st.integers(0, 9),
    bias=st.booleans(),
)
def test_a_convolution_with_channels_last(channels, kernel, stride, spare, bias):
    torch.manual_seed(0)
    convolution = nn.Conv1d(channels, 5, kernel, stride, bias=bias).double()
    x = torch.randn(2, channels, kernel + spare, dtype=torch.double)
    out = time_major_convolution(x.transpose(1, 2).contiguous(), convolution)
    torch.testing.assert_close(out, convolution(x).transpose(1, 2))


@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_the_front_end_with_channels_last(name, monkeypatch):
    """As a CPU computes it, against what other devices do, gates of channels included."""
    encoder = random_encoder(SHAPES[name])
    waveforms, _ = encoder.prepare(unequal_waveforms())
    gates = [torch.rand(layer.channels) for layer in encoder.config.conv]
    ours = encoder.feature_extractor(waveforms, gates)
    monkeypatch.setattr("pruned_upstream.model.frontend.eager_on_cpu", lambda x: False)
    assert largest_difference([ours], [encoder.feature_extractor(waveforms, gates)]) < 1e-5


def test_norm_over_living_channels_counts_the_others_as_zeros():
    torch.manual_seed(0)
    norm = ChannelNorm(5, 8)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 7, 5)
    dense = torch.cat([x, torch.zeros(2, 7, 3)], -1)
    mean, variance = dense.mean(-1, keepdim=True), dense.var(-1, unbiased=False, keepdim=True)
    expected = (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


def with_front_end(config, front_end):
    """The shape with its front end as it is, with fewer channels, or with the light one of the published frame rate."""
    if front_end == "light":
        if config.log_mel is not None:
            pytest.skip("the light front end reads waveforms")
        conv = tuple(ConvLayer(32, kernel, stride, 32) for _, kernel, stride in CONV_FEATURE_LAYERS)
        return light_front_end(dataclasses.replace(config, conv=conv))
    if front_end == "pruned":
        conv = [dataclasses.replace(layer, channels=layer.channels - 5) for layer in config.conv]
        if not config.has_projection:  # the last convolution is as wide as the transformer
            conv[-1] = config.conv[-1]
        return dataclasses.replace(config, conv=tuple(conv), feature_scale=config.has_projection)
    return config


WHOLE_HEADS = (TransformerLayer(True, (Head(1, 6, 6), Head(3, 6, 6)), True, 16),) * 3


@pytest.mark.parametrize("front_end", ["dense", "pruned", "light"])
@pytest.mark.parametrize("layers", [None, WHOLE_HEADS, RAGGED], ids=["dense", "whole heads", "ragged"])
@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_every_precision(name, layers, front_end):
    config = SHAPES[name] if layers is None else dataclasses.replace(SHAPES[name], layers=layers)
    encoder = random_encoder(with_front_end(config, front_end))
    waveforms, lengths = encoder.prepare(unequal_waveforms())
    single = encoder(waveforms, lengths)
    exact = copy.deepcopy(encoder).double()(waveforms.double(), lengths)
    assert exact.hidden_states[-1].dtype == torch.double
    assert largest_difference(single.hidden_states, exact.hidden_states, exact.padding_mask) < 1e-5
    for dtype in (torch.bfloat16, torch.float16):
        halved = copy.deepcopy(encoder).to(dtype)(waveforms.to(dtype), lengths)
        assert {state.dtype for state in (*halved.hidden_states, halved.projected)} == {dtype}
        with torch.autocast("cpu", dtype):
            mixed = encoder(waveforms, lengths)
        for states in (halved.hidden_states, mixed.hidden_states):
            assert relative_error(states, single) < 4 * torch.finfo(dtype).eps


def relative_error(states, exact):
    """Root of the mean squared difference over that of the values on valid frames, of the worst hidden state."""
    valid = ~exact.padding_mask
    pairs = [(a[valid].double(), b[valid].double()) for a, b in zip(states, exact.hidden_states, strict=True)]
    return max(((a - b).square().mean() / b.square().mean()).sqrt().item() for a, b in pairs)


@torch.no_grad()
def test_double_precision_is_double_throughout():
    """The position convolution goes through the frequency domain, which once rounded to single precision."""
    encoder = random_encoder(tiny_config()).double()
    waveforms, lengths = encoder.prepare([wav.double() for wav in unequal_waveforms()])
    ours = encoder(waveforms, lengths)
    with torch.enable_grad():
        plain = torch.compile(encoder, fullgraph=True, backend="eager")(waveforms, lengths)
    assert largest_difference(ours.hidden_states, plain.hidden_states, ours.padding_mask) < 1e-12


@pytest.mark.parametrize("layers", [None, RAGGED], ids=["dense", "ragged"])
@torch.no_grad()
def test_one_graph_without_breaks(layers):
    encoder = random_encoder(tiny_config() if layers is None else ragged_config())
    waveforms, lengths = encoder.prepare(unequal_waveforms())
    expected = encoder(waveforms, lengths)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    states = compiled(waveforms, lengths).hidden_states
    assert largest_difference(states, expected.hidden_states, expected.padding_mask) < 1e-5


@torch.no_grad()
def test_dropout_is_training_only():
    encoder = random_encoder(tiny_config())
    dropping = type(encoder)(tiny_config(), Dropout(0.5, 0.5, 0.5, 0.5, 0.5)).eval()
    dropping.load_state_dict(encoder.state_dict())
    waveforms = torch.randn(2, 1600)
    expected = encoder(waveforms).hidden_states
    assert largest_difference(dropping(waveforms).hidden_states, expected) == 0
    assert largest_difference(dropping.train()(waveforms).hidden_states, expected) > 0.01
