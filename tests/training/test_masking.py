"""What is hidden comes in spans."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.training.masking import masked_spans


@given(st.integers(0, 2**31), st.integers(1, 6), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_hidden_frames_come_in_spans_and_never_on_padding(seed, span, lengths):
    valid = torch.arange(30) < torch.tensor(lengths)[:, None]
    torch.manual_seed(seed)
    hidden = masked_spans(valid, 0.2, span)
    torch.manual_seed(seed)
    starts = torch.rand(valid.shape) < 0.2
    expected = torch.zeros_like(valid)
    for offset in range(span):
        expected[:, offset:] |= starts[:, : 30 - offset]
    assert torch.equal(hidden, expected & valid)
