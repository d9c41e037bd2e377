"""Counting launches without a GPU: what is one, what is none, and that ours stay below s3prl's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks import launches, shapes
from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.encoder import Encoder


def test_what_counts() -> None:
    linear = torch.nn.Linear(3, 3).to("meta")

    def run(waveforms: torch.Tensor) -> None:
        x = waveforms.view(-1, 1)[:9].view(3, 3).t()  # looks at the same memory
        F.relu(linear(x))  # two
        x = x.reshape(1, 1, 3, 3)
        F.scaled_dot_product_attention(x, x, x)  # one, however torch takes it apart here
        torch.empty(3, device="meta")

    assert launches.count(run) == 3


def test_fewer_than_s3prls() -> None:
    pytest.importorskip("s3prl")
    theirs = launches.count(launches.stock())
    ours = launches.count(Encoder(wavlm_base_config()).to("meta").eval())
    compact = launches.count(Encoder(shapes.whole_heads()).to("meta").eval())
    assert ours < theirs and compact < theirs
