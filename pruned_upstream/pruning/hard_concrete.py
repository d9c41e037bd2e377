"""The hard concrete distribution and the clipped straight-through estimator: how a gate is drawn and learned.

A gate z in [0, 1] is a sigmoid of noisy logits, stretched past both ends of the interval and cut off there, so
that it is exactly 0 (and exactly 1) with a probability known in closed form. Louizos et al., Learning Sparse Neural
Networks through L0 Regularization, ICLR 2018, equations 10 to 12; Wang et al., Task-Agnostic Structured Pruning
of Speech Representation Models, Interspeech 2023, equations 2 and 4.

The paper prints log_alpha outside the division by the temperature; Louizos et al. and the code that the paper
builds on (princeton-nlp/CoFiPruning, models/l0_module.py) divide the sum, and so does this file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

ZETA = 1.1  # the stretched interval is (GAMMA, ZETA)
GAMMA = -0.1
BETA = 2 / 3  # temperature
NOISE_MARGIN = 1e-6  # noise stays this far from 0 and 1, where its logit is infinite
FINAL_SHARPNESS = 0.8  # of the soft value that a surviving gate ends with (CoFiPruning's `magical_number`)


def stretched(log_alpha: Tensor, noise: Tensor, beta: float = BETA) -> Tensor:
    """The gate before it is cut to [0, 1]: s_bar of equation 2.

    Args:
        noise: uniform on [0, 1), in the shape of `log_alpha`.
    """
    s = torch.sigmoid((torch.logit(noise, eps=NOISE_MARGIN) + log_alpha) / beta)
    return s * (ZETA - GAMMA) + GAMMA


class ClippedStraightThrough(torch.autograd.Function):
    """Forward min(max(s_bar, 0), 1); backward dL/ds_bar = clip(dL/dz, -1, 1), where the cut is flat too (equation 4).

    The true gradient is zero for a gate drawn as exactly 0 or 1: it then learns from the size penalty alone. Here
    it goes on hearing what the task would make of it.
    """

    @staticmethod
    def forward(ctx: Any, s_bar: Tensor) -> Tensor:
        """Equation 4, forward: min(1, max(0, s))."""
        return s_bar.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Equation 4, backward: the gradient as it comes, clipped to [-1, 1], outside the interval, too."""
        return grad.clamp(-1, 1)


def hard_tanh(s_bar: Tensor) -> Tensor:
    """The cut with its true gradient, zero outside (0, 1): the paper's "w/o STE"."""
    return torch.nn.functional.hardtanh(s_bar, 0, 1)


def probability_open(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """P(z > 0), in closed form and differentiable."""
    return torch.sigmoid(log_alpha - beta * math.log(-GAMMA / ZETA))


def quadrature() -> Tensor:
    """(2, 16): where `mean` looks at its integrand, as log((t - gamma) / (zeta - t)), and with which weights.

    The integrand is smooth, so that 16 Gauss-Legendre nodes give it to single precision.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)  # on [-1, 1]
    t = (nodes + 1) / 2
    return torch.tensor(np.stack([np.log((t - GAMMA) / (ZETA - t)), weights / 2]), dtype=torch.float32, device="cpu")


def mean(log_alpha: Tensor, beta: float = BETA, rule: Tensor | None = None) -> Tensor:
    """E[z], the integral over t in [0, 1] of P(z > t).

    Args:
        rule: `quadrature()` on the device of `log_alpha`, for who asks often: it need not be copied there each time.
    """
    offsets, weights = quadrature().to(log_alpha) if rule is None else rule
    above = torch.sigmoid(log_alpha.unsqueeze(-1) - beta * offsets)  # (..., 16)
    return above @ weights


def soft_value(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """The noise-free value that a gate keeps if it survives (CoFiPruning, `_deterministic_z`)."""
    return torch.sigmoid(log_alpha / beta * FINAL_SHARPNESS)
