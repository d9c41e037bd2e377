"""One draw a step, one passage through the estimator; and which gates remain."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import ConfigError
from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.gating import EncoderGates, LayerGates, gated_inputs, gated_outputs
from pruned_upstream.pruning import hard_concrete
from pruned_upstream.pruning.compaction import compact, compact_config, verify
from pruned_upstream.pruning.gates import Gates, GateSettings, encoder_gates
from pruned_upstream.pruning.sparsity import counted_sparsity, expected_sparsity, final_gates

CONFIG = tiny_config()  # 3 layers, 4 heads of 6, 40 feed-forward dimensions, 16 channels


def test_kinds_and_shapes():
    def shapes(**settings):
        return {kind: tuple(a.shape) for kind, a in Gates(CONFIG, GateSettings(**settings)).log_alpha.items()}

    assert shapes() == {
        "qk": (3, 4, 6),
        "vo": (3, 4, 6),
        "ffn": (3, 40),
        "attention": (3,),
        "feed_forward": (3,),
    }
    assert shapes(fine_grained=False, multi_scale=False) == {"head": (3, 4), "ffn": (3, 40)}
    assert {k: s for k, s in shapes(conv=True).items() if k.startswith("conv")} == {
        f"conv_{i}": (16,) for i in range(3)
    }


def test_a_front_end_as_wide_as_the_transformer_keeps_its_last_channels():
    config = tiny_config(conv_layers=((16, 10, 5), (24, 4, 4)))
    gates = Gates(config, GateSettings(conv=True))
    assert "conv_0" in gates.log_alpha and "conv_1" not in gates.log_alpha
    assert gates.sample().gates.conv[1] is None


def test_initial_log_alpha_is_the_drop_rate():
    torch.manual_seed(0)
    gates = Gates(wavlm_base_config())
    # sigmoid(-log_alpha) is the drop rate: 0.5 for ffn, 0.1 for q/k and v/o, 0.01 for sublayers
    assert gates.log_alpha["ffn"].mean().item() == pytest.approx(0.0, abs=1e-3)
    assert gates.log_alpha["ffn"].std().item() == pytest.approx(0.01, rel=0.02)
    assert gates.log_alpha["vo"].mean().item() == pytest.approx(math.log(9), abs=1e-3)
    assert gates.log_alpha["attention"].mean().item() == pytest.approx(4.595, abs=0.01)


def test_gates_are_dealt_out_in_the_order_of_the_rows():
    values = {"head": torch.arange(12.0).view(3, 4), "ffn": torch.rand(3, 40), "attention": torch.rand(3)}
    gates = encoder_gates(CONFIG, values)
    assert gates.layers[1].vo.tolist() == [4.0] * 6 + [5.0] * 6 + [6.0] * 6 + [7.0] * 6
    assert gates.layers[1].qk is None and gates.layers[1].feed_forward is None and gates.conv is None
    assert torch.equal(gates.layers[2].ffn, values["ffn"][2])
    assert gates.layers[0].attention.shape == ()


def test_same_generator_same_draw():
    gates = Gates(CONFIG)
    first, second = (gates.sample(torch.Generator().manual_seed(5)).values for _ in range(2))
    other = gates.sample(torch.Generator().manual_seed(6)).values
    assert all(torch.equal(first[kind], second[kind]) for kind in first)
    assert not torch.equal(first["ffn"], other["ffn"])


def log_alpha_gradients(gates):
    return {kind: a.grad.clone() for kind, a in gates.log_alpha.items()}


@pytest.mark.parametrize("straight_through", [True, False])
def test_sample_carries_the_gathered_gradient_through_the_estimator(straight_through):
    gates = Gates(CONFIG, GateSettings(straight_through=straight_through))
    sample = gates.sample(torch.Generator().manual_seed(0))
    coefficients = {kind: 3 * torch.randn_like(z) for kind, z in sample.values.items()}
    for _ in range(4):  # four micro-batches, a quarter of the gradient each
        sum((coefficients[kind] * z).sum() / 4 for kind, z in sample.values.items()).backward()
    sample.backward()
    noise = torch.Generator().manual_seed(0)
    for kind, log_alpha in gates.log_alpha.items():
        a = log_alpha.detach().clone().requires_grad_()
        s_bar = hard_concrete.stretched(a, torch.rand(a.shape, generator=noise))
        inside = (s_bar > 0) & (s_bar < 1)
        gradient = coefficients[kind].clamp(-1, 1) if straight_through else coefficients[kind] * inside
        s_bar.backward(gradient)
        torch.testing.assert_close(log_alpha.grad, a.grad)


def test_micro_batches_and_ranks_add_up_before_the_clip():
    """Parts that pull apart, 5 and -4.5 on each of two ranks: each alone would be clipped, their sum 1 is just not."""
    gates = Gates(CONFIG)

    def ffn_gradient(parts, reduce=None):
        gates.zero_grad()
        sample = gates.sample(torch.Generator().manual_seed(1))
        for part in parts:
            (part * sample.values["ffn"].sum()).backward()
        sample.backward(reduce)
        return gates.log_alpha["ffn"].grad.clone()

    one_process = ffn_gradient([1.0])
    torch.testing.assert_close(ffn_gradient([5.0, -4.5], reduce=lambda gradient: gradient.mul_(2)), one_process)
    assert torch.equal(ffn_gradient([9.0]), one_process)


def test_accumulation_through_the_encoder_equals_the_joined_batch():
    encoder = random_encoder(CONFIG)
    gates = Gates(CONFIG)
    waveforms, _ = encoder.prepare(unequal_waveforms((1600, 1600, 1600)))

    def gradients(parts):
        gates.zero_grad()
        sample = gates.sample(torch.Generator().manual_seed(3))
        for part in parts:
            encoder(part, gates=sample.gates).hidden_states[-1].square().sum().backward()
        assert all(z.grad is not None and z.grad.abs().sum() > 0 for z in sample.values.values())
        sample.backward()
        return log_alpha_gradients(gates)

    joined, split = gradients([waveforms]), gradients(waveforms.split(1))
    for kind in joined:
        torch.testing.assert_close(split[kind], joined[kind], rtol=1e-3, atol=1e-5)


def test_clamp():
    gates = Gates(CONFIG)
    with torch.no_grad():
        gates.log_alpha["ffn"].copy_(torch.linspace(-9, 9, 120).view(3, 40))
    gates.clamp_()
    assert gates.log_alpha["ffn"].abs().max().item() == pytest.approx(math.log(100))


def set_log_alpha(gates, **values):
    with torch.no_grad():
        for kind, value in values.items():
            gates.log_alpha[kind].copy_(value)


def test_final_gates_close_the_expected_number_of_each_group():
    torch.manual_seed(0)
    gates = Gates(CONFIG)
    set_log_alpha(gates, ffn=2 * torch.randn(3, 40), vo=2 * torch.randn(3, 4, 6), qk=2 * torch.randn(3, 4, 6))
    final = gates.deterministic()
    for kind in ("ffn", "vo", "qk"):
        for number, layer in enumerate(final.layers):
            gate = getattr(layer, kind)
            log_alpha = gates.log_alpha[kind][number].flatten()
            closed = round(gate.numel() - hard_concrete.probability_open(log_alpha).sum().item())
            assert (gate == 0).sum().item() == closed
            order = log_alpha.argsort()
            assert (gate[order[:closed]] == 0).all()
            torch.testing.assert_close(gate[order[closed:]], torch.sigmoid(log_alpha[order[closed:]] * 1.5 * 0.8))


def test_sublayers_are_one_group_over_all_layers():
    gates = Gates(CONFIG, GateSettings(clamp=None))
    # P(z > 0) 0.52, 0.71, 0.83 of log_alpha -1.5, -0.7, 0: two of three are expected to be open
    set_log_alpha(gates, attention=torch.tensor([-0.7, -1.5, 0.0]), feed_forward=torch.tensor([-4.6, -9.0, 4.6]))
    final = gates.deterministic()
    assert [bool(layer.attention) for layer in final.layers] == [True, False, True]
    assert [bool(layer.feed_forward) for layer in final.layers] == [False, False, True]


def test_dead_sublayers_do_not_add_up_to_a_living_one():
    """Fourteen gates at the clamp's floor have 0.66 of a gate between them."""
    config = tiny_config(num_layers=16)
    gates = Gates(config)
    bound = math.log(100)
    set_log_alpha(gates, feed_forward=torch.tensor([-bound] * 14 + [bound] * 2))
    assert sum(bool(layer.feed_forward) for layer in gates.deterministic().layers) == 2


def test_a_convolution_keeps_a_channel():
    gates = Gates(CONFIG, GateSettings(conv=True, clamp=None))
    set_log_alpha(gates, conv_1=torch.full((16,), -20.0))
    assert gates.deterministic().conv[1].count_nonzero() == 1


def test_saved_and_loaded():
    torch.manual_seed(0)
    first, second = Gates(CONFIG), Gates(CONFIG)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(first.log_alpha[kind], second.log_alpha[kind]) for kind in first.log_alpha)


@pytest.mark.parametrize(
    "bad", [{"drop_ffn": 1.0}, {"drop_qk": -0.1}, {"beta": 0.0}, {"clamp": -1.0}, {"init_std": -1.0}]
)
def test_impossible_settings(bad):
    with pytest.raises(ConfigError, match=f"gates.{next(iter(bad))} is"):
        GateSettings(**bad)


@pytest.fixture
def pruned() -> Encoder:
    """Ragged heads, one gone, one without q/k, a dead sublayer, fewer feed-forward dimensions and channels."""
    encoder = random_encoder(tiny_config())
    uneven = LayerGates(
        qk=torch.tensor([0.0] * 6 + [1.0] * 18),
        vo=torch.tensor([1.0] * 11 + [0.0] * 13),
        ffn=(torch.arange(40) % 3 > 0).float(),
    )
    dead = LayerGates(attention=torch.tensor(0.0), ffn=torch.zeros(40))
    conv = [(torch.arange(16) % 4 > 0).float()] * 3
    return compact(encoder, EncoderGates([uneven, dead, LayerGates()], conv))


@pytest.mark.parametrize("settings", [GateSettings(conv=True), GateSettings(fine_grained=False)], ids=["fine", "heads"])
def test_gates_of_a_compact_encoder_hold_what_it_still_has(pruned: Encoder, settings: GateSettings) -> None:
    gates = Gates(pruned.config, settings)
    with torch.no_grad():
        for log_alpha in gates.log_alpha.values():
            log_alpha.fill_(100.0)
    open_now = encoder_gates(pruned.config, {kind: (p > 0.5).float() for kind, p in gates.probabilities().items()})
    assert compact_config(pruned.config, open_now) == pruned.config
    dense = pruned.config.densified()
    for scope in ("transformer", "everything"):
        expected = expected_sparsity(pruned.config, {k: p.round() for k, p in gates.probabilities().items()}, scope)
        assert expected.item() == pytest.approx(counted_sparsity(dense, pruned.config, scope), abs=1e-12)
    for drawn in (gates.sample().gates, gates.deterministic()):
        for layer, values in zip(pruned.config.layers, drawn.layers, strict=True):
            assert values.vo.numel() == layer.vo
            assert values.ffn.numel() == layer.ffn


def test_pruning_a_compact_encoder_further_is_exact(pruned: Encoder) -> None:
    torch.manual_seed(1)
    gates = Gates(pruned.config, GateSettings(conv=True, init_std=2.0))
    final = final_gates(gates, 0.7)
    smaller = compact(pruned, final)
    batch = pruned.prepare(unequal_waveforms())
    verify(pruned, final, smaller, [batch])
    assert counted_sparsity(pruned.config.densified(), smaller.config) == pytest.approx(0.7, abs=0.05)
    sample = gates.sample()
    pruned.train()(*batch, gates=sample.gates).hidden_states[-1].square().mean().backward()
    sample.backward()
    lost = gates.log_alpha["ffn"].grad[1]
    assert (lost == 0).all(), "a gate of what was lost before has learned something"
    assert (gates.log_alpha["ffn"].grad[0] != 0).any()


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("form", [gated_outputs, gated_inputs])
def test_gates_multiply_what_is_smaller(form, rows) -> None:
    """Of a short batch the activations, of a long one the weights: the same values and gradients, less memory."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 12).double()
    x = torch.randn(rows, 16, dtype=torch.double, requires_grad=True)
    gate = torch.rand(12 if form is gated_outputs else 16, dtype=torch.double, requires_grad=True)
    kept: list[tuple[tuple[int, ...], int]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tuple(tensor.shape), tensor.data_ptr()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = form(linear, x, gate)
    wanted = linear(x) * gate if form is gated_outputs else linear(x * gate)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = (x, gate, linear.weight, linear.bias)
    ours, theirs = (torch.autograd.grad(y.square().sum(), inputs) for y in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    own = {pointer for shape, pointer in kept if set(shape) == {12, 16}} - {linear.weight.data_ptr()}
    assert len(own) == (rows == 40)
