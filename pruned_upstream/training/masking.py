"""Hiding parts of the projected features from the transformer: spans of frames, and spans of channels.

Baevski et al., "wav2vec 2.0" (2020), section 3.1 and appendix B: every position starts a span with some probability,
and spans may overlap. Finetuning hides channels too, as SpecAugment does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_spans(valid: Tensor, start: float, span: int) -> Tensor:
    """Positions to hide, from torch's global RNG on the CPU, the same on every device.

    Args:
        valid: (B, N), True at positions that may be hidden, on the CPU.
        start: probability that a span starts at a position.

    Returns:
        (B, N) bool.
    """
    starts = (torch.rand(valid.shape) < start).float()
    padded = F.pad(starts, (span - 1, 0)).unsqueeze(1)  # (B, 1, N + span - 1)
    return (F.max_pool1d(padded, span, stride=1).squeeze(1) > 0) & valid
