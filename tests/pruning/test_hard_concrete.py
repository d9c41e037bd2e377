"""The distribution against samples of it, the estimator against its table."""

from __future__ import annotations

import math

import pytest
import torch

from pruned_upstream.pruning import hard_concrete

LOG_ALPHAS = (-4.605, -1.0, 0.0, 0.7, 2.5, 4.605)


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_probability_and_mean_against_a_million_samples(log_alpha):
    noise = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    z = hard_concrete.stretched(torch.tensor(log_alpha), noise).clamp(0, 1)
    share_open = (z > 0).double().mean().item()
    probability = hard_concrete.probability_open(torch.tensor(log_alpha)).item()
    # four standard errors of a mean of a million
    assert abs(share_open - probability) < 4e-3 * math.sqrt(probability * (1 - probability))
    assert abs(z.double().mean().item() - hard_concrete.mean(torch.tensor(log_alpha)).item()) < 4e-3 * z.std().item()


def test_equation_2_by_hand():
    # u = 0.5 has logit 0: s = sigmoid(log_alpha / beta), stretched from (0, 1) to (-0.1, 1.1)
    s_bar = hard_concrete.stretched(torch.tensor([0.0, 1.0, -1.0]), torch.tensor(0.5))
    s = 1 / (1 + math.exp(-1.5))
    torch.testing.assert_close(s_bar, torch.tensor([0.5, 1.2 * s - 0.1, 1.2 * (1 - s) - 0.1]))


def test_the_clamp_leaves_a_closed_gate_five_percent():
    bound = torch.tensor(-math.log(100))
    assert hard_concrete.probability_open(bound).item() == pytest.approx(0.0471, abs=1e-4)


def test_noise_at_the_ends_stays_finite():
    assert hard_concrete.stretched(torch.zeros(2), torch.tensor([0.0, 1.0])).isfinite().all()


def test_mean_is_accurate_to_single_precision():
    log_alpha = torch.tensor(LOG_ALPHAS, dtype=torch.double)
    t = (torch.arange(200_000, dtype=torch.double) + 0.5) / 200_000  # midpoint rule
    cut = torch.log((t - hard_concrete.GAMMA) / (hard_concrete.ZETA - t))
    integral = torch.sigmoid(log_alpha[:, None] - hard_concrete.BETA * cut).mean(1)
    torch.testing.assert_close(hard_concrete.mean(log_alpha), integral, rtol=0, atol=1e-8)


# s_bar, gradient of z -> z, clipped straight-through gradient, true gradient
TABLE = [
    (-0.09, 0.3, 0.0, 0.3, 0.0),
    (-0.09, -7.0, 0.0, -1.0, 0.0),
    (0.25, 0.3, 0.25, 0.3, 0.3),
    (0.25, 1.7, 0.25, 1.0, 1.7),
    (0.25, -1.7, 0.25, -1.0, -1.7),
    (0.99, 1.0, 0.99, 1.0, 1.0),
    (1.08, 0.3, 1.0, 0.3, 0.0),
    (1.08, 5.0, 1.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("s_bar", "gradient", "z", "straight_through", "true"), TABLE)
def test_table_of_the_estimator(s_bar, gradient, z, straight_through, true):
    for cut, expected in (
        (hard_concrete.ClippedStraightThrough.apply, straight_through),
        (hard_concrete.hard_tanh, true),
    ):
        x = torch.tensor(s_bar, requires_grad=True)
        value = cut(x)
        value.backward(torch.tensor(gradient))
        assert value.item() == pytest.approx(z)
        assert x.grad.item() == pytest.approx(expected)


def test_true_gradient_is_the_numerical_one():
    noise = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.double)
    log_alpha = torch.tensor([-0.2, 0.3, 0.5, 0.1], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: hard_concrete.hard_tanh(hard_concrete.stretched(a, noise)), log_alpha)
    assert torch.autograd.gradcheck(hard_concrete.probability_open, log_alpha)
