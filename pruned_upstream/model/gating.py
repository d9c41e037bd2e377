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

from torch import Tensor


class LayerGates(NamedTuple):
    """Multipliers of one transformer layer, in the order of the layer's own rows."""

    qk: Tensor | None = None  # (sum of head.qk,)
    vo: Tensor | None = None  # (sum of head.vo,)
    ffn: Tensor | None = None  # (ffn,)
    attention: Tensor | None = None  # ()
    feed_forward: Tensor | None = None  # ()


class EncoderGates(NamedTuple):
    """Multipliers of an encoder: one entry a transformer layer and, if the front end is gated, one a convolution."""

    layers: Sequence[LayerGates]
    conv: Sequence[Tensor | None] | None = None  # (channels,) each, on the block's output after its activation
