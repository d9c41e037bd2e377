"""Gate values as the encoder receives them; how they are learned is `pruning/gates.py`.

A value of None means "not gated" (multiplied by one). The values multiply what method.md A1 says:
qk the projected query (its bias included), vo the projected value, ffn the activation between the two
feed-forward matrices, attention and feed_forward the sublayer's whole output, output bias included.

A convolution's values multiply its block's output, after the activation. Where the block normalises over
channels (extractor_mode "layer_norm") they multiply the convolution's output too, before the norm: only so
does a closed channel leave the statistics of the others alone, and a removed one equal a closed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .derived import is_plain


class LayerGates(NamedTuple):
    """Multipliers of one transformer layer, in the order of the layer's own rows."""

    qk: Tensor | None = None  # (sum of head.qk,)
    vo: Tensor | None = None  # (sum of head.vo,)
    ffn: Tensor | None = None  # (ffn,)
    attention: Tensor | None = None  # ()
    feed_forward: Tensor | None = None  # ()


class EncoderGates(NamedTuple):
    """Multipliers of an encoder: one entry per transformer layer and, if gated, one per convolution."""

    layers: Sequence[LayerGates]
    conv: Sequence[Tensor | None] | None = None  # (channels,) each, on the block's output after its activation


def gated_outputs(linear: nn.Module, x: Tensor, gate: Tensor | None) -> Tensor:
    """`linear(x) * gate`: (..., in) -> (..., out).

    The gate multiplies what is smaller and is kept for the backward pass: the weights of a plain linear map, or, of a
    short batch, the outputs. Anything else than a plain linear map is called, and its output gated.
    """
    if gate is None:
        return linear(x)
    if is_plain(linear, nn.Linear) and _rows(x) >= linear.in_features:
        bias = None if linear.bias is None else linear.bias * gate
        return F.linear(x, linear.weight * gate.unsqueeze(1), bias)
    return linear(x) * gate


def gated_inputs(linear: nn.Module, x: Tensor, gate: Tensor | None) -> Tensor:
    """`linear(x * gate)`: (..., in) -> (..., out); on the weights where those are smaller, as `gated_outputs`."""
    if gate is None:
        return linear(x)
    if is_plain(linear, nn.Linear) and _rows(x) >= linear.out_features:
        return F.linear(x, linear.weight * gate, linear.bias)
    return linear(x * gate)


def _rows(x: Tensor) -> int:  # of (..., in)
    return x.numel() // x.size(-1)
