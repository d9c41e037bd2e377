"""The expected size against counted parameters, the published shape, and what the multipliers do with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_encoder, tiny_config

from pruned_upstream.errors import ConfigError
from pruned_upstream.model.config import RelativePosition, dense_config, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters, parameters_by_part
from pruned_upstream.pruning.compaction import compact_config
from pruned_upstream.pruning.cost import expected_size
from pruned_upstream.pruning.gates import Gates, GateSettings, encoder_gates
from pruned_upstream.pruning.sparsity import (
    GentlePrice,
    Lagrangian,
    TargetSparsity,
    counted_sparsity,
    expected_sparsity,
    final_gates,
)

BASE = wavlm_base_config()


@st.composite
def dense_configs(draw):
    heads, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    channels = [draw(st.integers(1, 6)) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        channels[-1] = heads * width  # no projection
    return dense_config(
        conv_layers=tuple((c, draw(st.integers(1, 3)), 1) for c in channels),
        num_layers=draw(st.integers(1, 3)),
        embed_dim=heads * width,
        num_heads=heads,
        ffn_dim=draw(st.integers(1, 9)),
        extractor_mode=draw(st.sampled_from(["default", "layer_norm"])),
        conv_bias=draw(st.booleans()),
        layer_norm_first=draw(st.booleans()),
        conv_pos=4,
        conv_pos_groups=1,
        relative_position=draw(
            st.sampled_from([None, RelativePosition(4, 8, gated=True), RelativePosition(4, 8, gated=False)])
        ),
    )


kinds = ("qk", "vo", "head", "ffn", "attention", "feed_forward", "conv_0", "conv_1", "conv_2")
shares = st.fixed_dictionaries({kind: st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) for kind in kinds})
gate_settings = st.builds(GateSettings, fine_grained=st.booleans(), multi_scale=st.booleans(), conv=st.booleans())


@given(config=dense_configs(), asked=gate_settings, open_share=shares, seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_expected_size_is_the_counted_one_for_every_pattern(random_gates, config, asked, open_share, seed):
    pattern = random_gates(config, asked, seed=seed, open_share=open_share, fractional=False)
    compact = compact_config(config, encoder_gates(config, pattern))
    size = {part: count.item() for part, count in expected_size(config, pattern).items()}
    assert size == parameters_by_part(compact)
    with torch.device("meta"):
        assert sum(size.values()) == sum(p.numel() for p in Encoder(compact).parameters())


@pytest.mark.parametrize("fine_grained", [True, False])
def test_expected_size_is_the_counted_one_at_the_published_shape(random_gates, fine_grained):
    pattern = random_gates(BASE, GateSettings(fine_grained), seed=0, open_share=0.5, fractional=False)
    compact = compact_config(BASE, encoder_gates(BASE, pattern))
    assert sum(expected_size(BASE, pattern).values()).item() == count_parameters(compact)


def test_expected_size_is_the_mean_of_counted_ones():
    """Linear in each gate, the formula gives the mean over random patterns whose gates are independent."""
    config = tiny_config(num_layers=1)
    torch.manual_seed(0)
    probabilities = {"qk": torch.rand(1, 4, 6), "vo": 0.3 * torch.rand(1, 4, 6), "attention": torch.rand(1)}
    counted = torch.stack(
        [
            expected_size(config, {kind: torch.bernoulli(p) for kind, p in probabilities.items()})["attention"]
            for _ in range(2000)
        ]
    )
    standard_error = counted.std() / 2000**0.5
    assert abs(counted.mean() - expected_size(config, probabilities)["attention"]) < 4 * standard_error


def test_published_shape():
    """Wang et al.: 94.70M by the papers' count, 94.38M by ours, of which 85.02M are attention and feed-forward."""
    dense = {part: count.item() for part, count in expected_size(BASE, {}).items()}
    prunable = dense["attention"] + dense["feed_forward"]
    # 12 (4 768^2 + 4 768 + 2 768 3072 + 3072 + 768) weights and biases, 12 (64 8 + 8 + 12) of position gates
    assert prunable == 85_017_600 + 6_384
    assert sum(dense.values()) == 94_381_168
    remaining = sum(dense.values()) - 0.8 * prunable
    assert round(remaining / 1e6, 2) == 26.36
    # without the position gates among what can go: 26.37M
    assert round((sum(dense.values()) - 0.8 * 85_017_600) / 1e6, 2) == 26.37


def test_dphubert_counts_everything():
    """DPHuBERT leaves 23.59M of 94.70M: three quarters of all parameters, the front end's among them."""
    assert expected_sparsity(BASE, {}, "everything").item() == 0
    quarter = {"attention": torch.zeros(12), "feed_forward": torch.zeros(12)}
    assert expected_sparsity(BASE, quarter, "transformer").item() == 1
    assert expected_sparsity(BASE, quarter, "everything").item() == pytest.approx(85_023_984 / 94_381_168)


def test_unknown_scope():
    with pytest.raises(ConfigError, match="'encoder'"):
        expected_sparsity(BASE, {}, "encoder")


def test_gradient_of_saturated_gates_is_finite():
    probabilities = {"vo": torch.tensor([0.0, 1.0] * 36).view(3, 4, 6).requires_grad_()}
    expected_sparsity(tiny_config(), probabilities).backward()
    assert probabilities["vo"].grad.isfinite().all()


def test_multipliers_ascend_and_gates_descend():
    lagrangian = Lagrangian()
    optimiser = torch.optim.SGD(lagrangian.parameters(), lr=1.0, maximize=True)
    expected = torch.tensor(0.3, requires_grad=True)
    lagrangian(expected, 0.8).backward()
    assert expected.grad == 0  # both multipliers start at 0
    optimiser.step()
    assert (lagrangian.lambda1.item(), lagrangian.lambda2.item()) == pytest.approx((-0.5, 0.25))
    expected.grad = None
    price = lagrangian(expected, 0.8)
    price.backward()
    assert price.item() == pytest.approx(-0.5 * -0.5 + 0.25 * 0.25)
    assert expected.grad.item() == pytest.approx(-0.5 + 2 * 0.25 * -0.5)  # negative: descent makes it sparser


def test_target_schedule():
    """The paper: linear to 80 % over the first 7 % of 200 000 steps, then constant."""
    target = TargetSparsity(0.8, 14_000)
    assert [target(step) for step in (0, 3_500, 14_000, 200_000)] == pytest.approx([0, 0.2, 0.8, 0.8])
    assert TargetSparsity(0.5, 0)(0) == 0.5
    with pytest.raises(ConfigError, match="1.2"):
        TargetSparsity(1.2, 10)
    with pytest.raises(ConfigError, match="-1"):
        TargetSparsity(0.5, -1)


@pytest.mark.parametrize("fine_grained", [True, False])
def test_a_short_run_ends_at_the_target(fine_grained):
    """A tiny student is distilled from its teacher while the multipliers drive its gates to the target."""
    config = tiny_config(num_layers=2)
    teacher, student = random_encoder(config), random_encoder(config)
    gates, lagrangian = Gates(config, GateSettings(fine_grained)), Lagrangian()
    optimiser = torch.optim.Adam(
        [
            {"params": student.parameters(), "lr": 1e-3},
            {"params": gates.parameters(), "lr": 0.1},
            {"params": lagrangian.parameters(), "lr": 0.1, "maximize": True},
        ],
        betas=(0.9, 0.99),
    )
    # the multipliers overshoot and swing back within 350 steps; then all settle
    settling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 if step < 350 else 0.1)
    target = TargetSparsity(0.6, 90)
    for step in range(450):
        waveforms = torch.randn(1, 300)
        with torch.no_grad():
            wanted = teacher(waveforms).hidden_states
        optimiser.zero_grad()
        sample = gates.sample()
        given = student(waveforms, gates=sample.gates).hidden_states
        sum((a - b).square().mean() for a, b in zip(given, wanted, strict=True)).backward()
        sample.backward()
        lagrangian(expected_sparsity(config, gates.probabilities()), target(step)).backward()
        optimiser.step()
        settling.step()
        gates.clamp_()
    expected = expected_sparsity(config, gates.probabilities()).item()
    counted = counted_sparsity(config, compact_config(config, final_gates(gates)))
    print(f"expected {expected:.4f}, counted {counted:.4f}")
    assert abs(expected - 0.6) < 0.005
    assert abs(counted - expected) < 0.11  # half a sublayer, the coarsest thing that is rounded


def test_rounding_leaves_nearly_the_expected_size_where_gates_have_decided():
    """Fine gates at any probability, sublayers decided: each group is off by half a row at most."""
    torch.manual_seed(0)
    gates = Gates(BASE, GateSettings(clamp=None))
    with torch.no_grad():
        for kind in ("qk", "vo", "ffn"):
            gates.log_alpha[kind].copy_(6 * torch.randn_like(gates.log_alpha[kind]))
        for kind in ("attention", "feed_forward"):
            gates.log_alpha[kind].copy_(torch.tensor([30.0, -30.0] * 6))
    expected = expected_sparsity(BASE, gates.probabilities()).item()
    counted = counted_sparsity(BASE, compact_config(BASE, gates.deterministic()))
    d, living_layers = 768, 6
    largest = living_layers * 0.5 * (2 * (d + 1) + 2 * (2 * d + 1)) / 85_023_984  # one row each of q/k, v/o, ffn
    assert abs(counted - expected) < largest < 2e-4


@pytest.mark.parametrize("target", [0.5, 0.7, 0.8, 0.95])
def test_final_gates_count_to_the_target(target):
    torch.manual_seed(1)
    gates = Gates(BASE)
    with torch.no_grad():
        for log_alpha in gates.log_alpha.values():
            log_alpha.normal_(-1.0 if log_alpha.dim() > 1 else 4.0, 2.0)
        gates.clamp_()
    counted = counted_sparsity(BASE, compact_config(BASE, final_gates(gates, target)))
    assert counted == pytest.approx(target, abs=1e-4)
    before, after = gates.deterministic(), final_gates(gates, target)
    assert [bool(layer.attention) for layer in before.layers] == [bool(layer.attention) for layer in after.layers]


def test_a_gentle_price_is_a_share_of_what_gates_hear() -> None:
    """Whatever the units of the loss: near the target it falls in proportion, beyond it it turns round."""
    gates = Gates(tiny_config())
    expected = expected_sparsity(gates.config, gates.probabilities())
    parameters = list(gates.parameters())
    by_size = torch.autograd.grad(expected, parameters, retain_graph=True)
    size = torch.cat([gradient.flatten() for gradient in by_size]).norm().item()
    for scale in (1e-3, 1.0, 1e3):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, scale)
        heard = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm().item()
        for miss, share in ((0.3, 1.0), (0.05, 1.0), (0.02, 0.4), (0.0, 0.0), (-0.01, -0.2), (-0.5, -1.0)):
            price = GentlePrice(0.3)
            penalty = price(expected, expected.item() + miss, parameters)
            assert price.multipliers()["price"].item() == pytest.approx(0.3 * share * heard / size, rel=1e-5, abs=1e-9)
            assert penalty.item() == pytest.approx(price.price.item() * miss, rel=1e-5, abs=1e-9)
            pull = torch.autograd.grad(penalty, parameters, retain_graph=True)
            norm = torch.cat([gradient.flatten() for gradient in pull]).norm().item()
            assert norm == pytest.approx(0.3 * abs(share) * heard, rel=1e-4, abs=1e-9)


def test_a_gentle_price_does_not_wind_up() -> None:
    """Gates that come late to their target do not go past it, as those under ascended multipliers do."""

    def ends(price, options) -> tuple[float, float]:
        torch.manual_seed(0)
        gates = Gates(tiny_config(), GateSettings(init_std=0.01))
        with torch.no_grad():
            for log_alpha in gates.log_alpha.values():
                log_alpha.fill_(2.5)
        groups = [{"params": gates.parameters(), "lr": 0.05, "weight_decay": 0.0}]
        groups += [{"params": price.parameters(), "lr": 0.03, "maximize": True, "weight_decay": 0.0}] * options
        optimiser = torch.optim.AdamW(groups)
        reached = []
        for step in range(300):
            optimiser.zero_grad()
            for log_alpha in gates.parameters():  # distillation: noise, and a pull upwards
                log_alpha.grad = 1e-3 * (torch.randn(log_alpha.shape) - 0.1)
            expected = expected_sparsity(gates.config, gates.probabilities())
            price(expected, TargetSparsity(0.67, 90)(step), list(gates.parameters())).backward()
            optimiser.step()
            gates.clamp_()
            reached.append(expected.item())
        return max(reached), reached[-1]

    most, last = ends(GentlePrice(1.0), 0)
    assert last == pytest.approx(0.67, abs=0.05)
    assert most < 0.72
    most, _ = ends(Lagrangian(), 1)
    assert most > 0.85


@pytest.mark.parametrize("target", [0.5, 0.67, 0.8])
def test_where_whole_heads_go_the_rows_of_other_kinds_meet_the_target(target: float) -> None:
    """A head is 0.23 % of what is priced, a feed-forward dimension 0.0018 %."""
    torch.manual_seed(1)
    gates = Gates(BASE, GateSettings(fine_grained=False, multi_scale=False))
    with torch.no_grad():
        for log_alpha in gates.log_alpha.values():
            log_alpha.normal_(0.0, 2.0)
    counted = counted_sparsity(BASE, compact_config(BASE, final_gates(gates, target)))
    assert counted == pytest.approx(target, abs=1537 / 85_023_984)
