"""What the official profiler sees, by formula and by patching functions as it does.

The patched functions, and what each is counted as, are those of B06901052/DeepSpeed, branch superb-challenge
(2226d27a), flops_profiler/profiler.py, as far as an encoder of ours calls them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import SHAPES
from torch import Tensor

from pruned_upstream.description.macs import count_macs, official_macs, seen_by_profiler
from pruned_upstream.model.config import (
    EncoderConfig,
    Head,
    TransformerLayer,
    hubert_base_config,
    wavlm_base_config,
    wavlm_large_config,
)
from pruned_upstream.model.encoder import Encoder

MATRIX_PRODUCTS = [
    *((torch, name) for name in ("matmul", "mm", "bmm")),
    *((torch.Tensor, name) for name in ("matmul", "__matmul__", "mm", "bmm")),
]


def of_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    return x.numel() * weight.shape[0]


def of_convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> int:
    def each(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * (weight.dim() - 2) if isinstance(value, int) else tuple(value)

    sides = zip(x.shape[2:], weight.shape[2:], each(stride), each(padding), each(dilation), strict=True)
    places = prod((size + 2 * pad - wide * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, wide in sides)
    return prod(weight.shape[2:]) * x.shape[1] * (weight.shape[0] // groups) * x.shape[0] * places


def of_product(one: Tensor, other: Tensor, **_: Any) -> int:
    return prod(one.shape) * other.shape[-1]


@contextlib.contextmanager
def profiled() -> Iterator[dict[str, int]]:
    """MACs by the name of the function; only of the outermost, since torch's meta device has Python below `linear`."""
    seen: dict[str, int] = {}
    inside = False

    def counted(name: str, real: Callable, macs: Callable[..., int]) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return real(*args, **kwargs)
            seen[name] = seen.get(name, 0) + macs(*args, **kwargs)
            inside = True
            try:
                return real(*args, **kwargs)
            finally:
                inside = False

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name, macs in [
            (F, "linear", of_linear),
            (F, "conv1d", of_convolution),
            (F, "conv2d", of_convolution),
            *((owner, name, of_product) for owner, name in MATRIX_PRODUCTS),
        ]:
            patch.setattr(owner, name, counted(name, getattr(owner, name), macs))
        yield seen


def seen_on(device: str, config: EncoderConfig, samples: int) -> dict[str, int]:
    with torch.device(device):
        encoder, waveforms = Encoder(config).eval().requires_grad_(False), torch.zeros(1, samples)
    encoder.to(device)  # what follows from the config is made on the CPU
    for module in encoder.modules():  # the profiler hangs its counters there
        module.register_forward_pre_hook(lambda module, inputs: None)
        module.register_forward_hook(lambda module, inputs, output: None)
    with torch.no_grad():
        encoder(waveforms)  # the position convolution's weight is derived once
        with profiled() as seen:
            encoder(waveforms)
    return seen


@pytest.mark.parametrize("samples", [500, 1777])
def test_on_a_gpu_all_but_the_attention_products_is_seen(shape, samples):
    """On the meta device, which takes the GPU's forms."""
    expected = seen_by_profiler(shape, count_macs(shape, samples))
    assert sum(seen_on("meta", shape, samples).values()) == expected


@pytest.mark.parametrize("config", [hubert_base_config(), wavlm_base_config(), wavlm_large_config()])
def test_on_a_gpu_at_full_size(config):
    assert sum(seen_on("meta", config, 20560).values()) == seen_by_profiler(config, count_macs(config, 20560))


def test_on_a_gpu_when_heads_are_ragged():
    config = SHAPES["wavlm"]
    ragged = TransformerLayer(True, (Head(0, 3, 1), Head(2, 0, 5), Head(3, 6, 6)), True, 7)
    empty = TransformerLayer(False, (), False, 0)
    pruned = dataclasses.replace(config, layers=((ragged, empty) * config.num_layers)[: config.num_layers])
    assert sum(seen_on("meta", pruned, 1777).values()) == seen_by_profiler(pruned, count_macs(pruned, 1777))


@pytest.mark.parametrize("config", [hubert_base_config(), wavlm_base_config()])
def test_on_a_cpu_the_position_convolution_is_not_seen_either(config):
    macs = count_macs(config, 20560)
    expected = seen_by_profiler(config, macs, on_cpu=True)
    assert seen_by_profiler(config, macs) - expected == macs.position_convolution
    assert sum(seen_on("cpu", config, 20560).values()) == pytest.approx(expected, rel=0.005)


def test_the_published_number_of_hubert_base_was_counted_with_everything_seen():
    """fairseq's attention of that time multiplied matrices by `bmm`: 1670 G have the products in them."""
    macs = official_macs(hubert_base_config())
    assert sum(bucket.total for bucket in macs) == pytest.approx(1670e9, rel=0.003)
    assert sum(seen_by_profiler(hubert_base_config(), bucket) for bucket in macs) < 0.96 * 1670e9
