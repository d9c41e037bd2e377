"""Distances between a student's and a teacher's hidden states, summed over frames.

They are sums, not means: micro-batches and processes hold different numbers of frames, and only sums divided by the
frames of the whole batch add up to what one process would have computed. How much a frame counts is given: a mask of
valid frames pools all of the batch, the mask over each utterance's number of frames makes a mean over utterances.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parsing import require_one_of


def mse(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Squared error, mean over dimensions, weighted sum over frames (Wang et al. 2023, equation 5).

    Args:
        student, teacher: (B, T, d).
        weights: (B, T), of each frame; 0 (or False) at padding.
    """
    error = (student.float() - teacher.float()).square().mean(-1)  # (B, T)
    return _summed(error, weights)


def l1_minus_cosine(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Absolute error, mean over dimensions, minus the cosine; weighted sum over frames.

    The distance of DPHuBERT (Peng et al., Interspeech 2023, equation 6, with weight 1). Shapes as in `mse`.
    """
    student, teacher = student.float(), teacher.float()
    distance = (student - teacher).abs().mean(-1) - F.cosine_similarity(student, teacher, dim=-1)  # (B, T)
    return _summed(distance, weights)


def l1_log_cosine(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Absolute error, mean over dimensions, minus log sigmoid of the cosine; weighted sum over frames.

    The distance of DistilHuBERT (Chang et al., ICASSP 2022, equation 1, with weight 1). Shapes as in `mse`.
    """
    student, teacher = student.float(), teacher.float()
    cosine = F.cosine_similarity(student, teacher, dim=-1)  # (B, T)
    distance = (student - teacher).abs().mean(-1) - F.logsigmoid(cosine)
    return _summed(distance, weights)


def gram(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """How differently the frames of an utterance are related: squared difference of the temporal Gram matrices, mean
    over the frames that a frame is related to, weighted sum over frames.

    The temporal Gram matrix of STaRHuBERT (Jang, Kim and Kim, ICASSP 2024), here of frames of unit length, so that
    layers of any size count alike. It needs no map between the layers. Shapes as in `mse`.
    """
    valid = weights > 0
    related = [F.normalize(x.float(), dim=-1) for x in (student, teacher)]
    ours, theirs = (x @ x.transpose(1, 2) for x in related)  # (B, T, T)
    error = torch.where(valid.unsqueeze(1), ours - theirs, 0.0).square().sum(-1)  # (B, T)
    return _summed(error / valid.sum(1, keepdim=True).clamp(min=1), weights)


def _summed(distance: Tensor, weights: Tensor) -> Tensor:
    """(B, T), (B, T) -> (); what stands at padding does not reach the sum, not even NaN."""
    return torch.where(weights > 0, distance * weights, 0.0).sum()


LOSSES = {"mse": mse, "l1_minus_cosine": l1_minus_cosine, "l1_log_cosine": l1_log_cosine}


def named_loss(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The distance of a recipe's `distillation.loss`.

    Raises:
        ConfigError: there is none of that name.
    """
    require_one_of("distillation.loss", name, LOSSES)
    return LOSSES[name]
