"""The distances, against torch's own and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pruned_upstream.distillation.losses import LOSSES, l1_log_cosine, l1_minus_cosine, mse

VALID = torch.tensor([[True, True, False]])
STUDENT = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
TEACHER = torch.tensor([[[0.0, 1.0], [0.0, 3.0], [-9.0, 9.0]]])


def test_values_by_hand() -> None:
    assert mse(STUDENT, TEACHER, VALID).item() == pytest.approx(1.0 + 0.5)
    assert l1_minus_cosine(STUDENT, TEACHER, VALID).item() == pytest.approx((1.0 - 0.0) + (0.5 - 1.0))
    log_sigmoid = -math.log(1 + math.exp(0.0)), -math.log(1 + math.exp(-1.0))
    assert l1_log_cosine(STUDENT, TEACHER, VALID).item() == pytest.approx(1.5 - sum(log_sigmoid))


def test_unpadded_mse_is_torchs() -> None:
    a, b = torch.randn(2, 3, 5, 7)
    valid = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(mse(a, b, valid) / valid.sum(), F.mse_loss(a, b))


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up_to_the_whole(name: str) -> None:
    a, b = torch.randn(2, 4, 5, 7)
    valid = torch.rand(4, 5) > 0.3
    parts = sum(LOSSES[name](a[i::2], b[i::2], valid[i::2]) for i in (0, 1))
    torch.testing.assert_close(parts, LOSSES[name](a, b, valid))


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_padding(name: str) -> None:
    a, b = torch.randn(2, 4, 5, 7)
    a.requires_grad_()
    valid = torch.rand(4, 5) > 0.3
    LOSSES[name](a, b, valid).backward()
    assert (a.grad[~valid] == 0).all()
    assert (a.grad[valid] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_summed_in_single(name: str) -> None:
    a, b = torch.randn(2, 4, 5, 7).bfloat16()
    assert LOSSES[name](a, b, torch.ones(4, 5, dtype=torch.bool)).dtype == torch.float32
