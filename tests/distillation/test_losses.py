"""The distances, against torch's own and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pruned_upstream.distillation.losses import LOSSES, gram, l1_log_cosine, l1_minus_cosine, mse

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


def test_gram_matrices_do_not_see_rotations_and_sizes_of_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 7, 5, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    valid = torch.ones(2, 7, dtype=torch.bool)
    assert gram(3 * teacher @ rotation, teacher, valid).item() == pytest.approx(0.0, abs=1e-9)
    other = torch.randn(2, 7, 5, generator=generator)
    ours, theirs = (torch.nn.functional.normalize(x, dim=-1) for x in (other, teacher))
    by_hand = sum(
        (ours[b, t] @ ours[b, u] - theirs[b, t] @ theirs[b, u]).item() ** 2 / 7
        for b in range(2)
        for t in range(7)
        for u in range(7)
    )
    assert gram(other, teacher, valid).item() == pytest.approx(by_hand, rel=1e-4)


def test_gram_matrices_hold_no_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 7, 5, generator=generator)
    valid = torch.arange(7) < torch.tensor([[7], [4]])
    whole = gram(student[:1], teacher[:1], valid[:1]) + gram(student[1:, :4], teacher[1:, :4], valid[1:, :4])
    student[1, 4:], teacher[1, 4:] = torch.nan, 100.0
    assert gram(student, teacher, valid).item() == pytest.approx(whole.item(), rel=1e-5)
