"""Hiding parts of the projected features from the transformer: spans of frames, and spans of channels.

Baevski et al., "wav2vec 2.0" (2020), section 3.1 and appendix B: every position starts a span with some probability,
and spans may overlap. Finetuning hides channels too, as SpecAugment does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

log = logging.getLogger(__name__)


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


def check_spans(frames: Sequence[int], span: int, key: str) -> None:
    """Look whether something is left to read beside what is hidden.

    Args:
        frames: of each recording, or of a crop of it.
        span: frames that are hidden together; the recipe's `key` says so.

    Raises:
        ConfigError: no recording is longer than a span.
    """
    short = sum(count <= span for count in frames)
    if short == len(frames):
        raise ConfigError(
            f"{key} is {span} frames, and no recording, or crop of data.max_seconds, has more than {max(frames)}: "
            f"hidden ones would be hidden to their ends, with nothing to tell them from; give a lower {key}"
        )
    if short:
        log.warning(
            "%d of %d recordings have no more frames than %s (%d) hides together: little or nothing of them is left",
            short, len(frames), key, span,
        )  # fmt: skip
