"""What a student costs, as gates see it and as a finished model counts it: parameters, multiply-accumulates, or time.

One formula serves both. In training a gate counts with its probability of being open, in the finished model 0 or 1:
for every such pattern the expected cost is the one that is counted in what `compaction.py` leaves.

    transformer   parameters of attention and feed-forward sublayers, as in the paper
    everything    all parameters, as in DPHuBERT
    macs          multiply-accumulates of the 32 official utterances (`description/macs.py`)
    latency       seconds on the machine at hand, from a table that is measured there (`latency_table.py`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..description.macs import OFFICIAL_LENGTHS, channel_pairs, official_macs
from ..model.attention import GATE_WIDTH
from ..model.config import EncoderConfig, Head, TransformerLayer
from ..model.size import PRUNABLE_PARTS, has_norm, parameters_by_part
from ..parsing import require_one_of
from .gates import conv_kind, living_places

BY_SHAPE = ("transformer", "everything", "macs")  # scopes that need nothing but the shape of an encoder
SCOPES = (*BY_SHAPE, "latency")


class Cost(Protocol):
    """What sparsity is a share of."""

    def expected(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Of an encoder under independent gates: a differentiable scalar in double precision.

        Args:
            probabilities: P(z > 0) of each kind of gate, stacked as `gates.py` says; a kind that is missing is open
                where the encoder still has it.
        """

    def counted(self, config: EncoderConfig) -> float:
        """Of an encoder as it is."""


def cost_of(scope: str) -> Cost:
    """The cost of a scope that a shape alone decides; time takes a table (`latency_table.Latency`).

    Raises:
        ConfigError: there is no such scope.
    """
    require_one_of("the scope of sparsity", scope, BY_SHAPE)
    return Macs() if scope == "macs" else Parameters(PRUNABLE_PARTS if scope == "transformer" else None)


class Parameters:
    """Number of parameters.

    Args:
        parts: which count, by the names of `model.size.parameters_by_part`; all by default.
    """

    def __init__(self, parts: tuple[str, ...] | None = None) -> None:
        self.parts = parts

    def expected(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Expected parameters, a differentiable scalar, from how likely each gate is to live."""
        sizes = expected_size(config, probabilities)
        return torch.stack([sizes[part] for part in self.parts or sizes]).sum()

    def counted(self, config: EncoderConfig) -> float:
        """Parameters of a shape."""
        sizes = parameters_by_part(config)
        return sum(sizes[part] for part in self.parts or sizes)


class Macs:
    """Multiply-accumulates of the official utterances. They are linear in the widths of a layer and in those of
    neighbouring convolutions, so what a row takes is asked of the official count, with the row and without."""

    def __init__(self) -> None:
        self._rates: dict[EncoderConfig, _Rates] = {}  # of dense shapes

    def expected(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Expected multiply-accumulates of the official utterances, a differentiable scalar."""
        dense = config.densified()
        if dense not in self._rates:
            self._rates[dense] = _Rates(dense)
        rates, widths = self._rates[dense], ExpectedWidths(config, probabilities)
        of_heads = rates.head * widths.heads + rates.qk * widths.qk + rates.vo * widths.vo  # (L, H)
        total = (widths.attention * of_heads.sum(1) + rates.ffn * widths.feed_forward * widths.ffn).sum()
        inputs = config.input_channels * widths.one
        for channels, rate in zip(widths.channels, rates.channel_pairs, strict=True):
            total = total + rate * inputs * channels
            inputs = channels
        return total + rates.projection * inputs + rates.fixed

    def counted(self, config: EncoderConfig) -> float:
        """Multiply-accumulates of the official utterances."""
        return _official(config)


def _official(config: EncoderConfig) -> int:
    return sum(bucket.total for bucket in official_macs(config))


class _Rates:
    """MACs of each row of a dense shape: of a head whatever its width, of a dimension, of a pair of channels, of a
    channel that the projection reads; and `fixed`, of what no gate reaches."""

    def __init__(self, dense: EncoderConfig) -> None:
        gone = TransformerLayer(attention=False, heads=(), feed_forward=False, ffn=0)

        def of_layer(*heads: Head, ffn: int = 0) -> int:
            layer = TransformerLayer(attention=True, heads=heads, feed_forward=True, ffn=ffn)
            return _official(replace(dense, layers=(layer, *(gone,) * (dense.num_layers - 1))))

        nothing, one = of_layer(), of_layer(Head(0, 0, 1))
        self.vo = of_layer(Head(0, 0, 2)) - one if dense.head_dim > 1 else one - nothing
        self.head = one - nothing - self.vo
        self.qk = of_layer(Head(0, 1, 1)) - one
        self.ffn = of_layer(ffn=1) - nothing
        lengths = [channel_pairs(dense, samples) for samples in OFFICIAL_LENGTHS]
        self.channel_pairs = [sum(rates) for rates in zip(*lengths, strict=True)]
        self.projection = sum(bucket.projection for bucket in official_macs(dense)) / dense.feature_dim
        channels = [dense.input_channels, *(layer.channels for layer in dense.conv)]
        pairs = [inputs * outputs for inputs, outputs in pairwise(channels)]
        front_end = sum(rate * pair for rate, pair in zip(self.channel_pairs, pairs, strict=True))
        self.fixed = nothing - front_end - self.projection * dense.feature_dim


class ExpectedWidths:
    """How wide each part is expected to be: L layers, H heads.

    attention, feed_forward: (L,), whether the sublayer lives.
    heads, qk, vo: (L, H), whether a head lives, and its widths, if the sublayer does.
    ffn: (L,), dimensions, if the sublayer lives.
    channels: of each convolution, a scalar.
    """

    def __init__(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> None:
        p = _Probabilities(config, probabilities)
        self.one = p.one
        qk, vo, head = p.of("qk"), p.of("vo"), p.of("head")
        self.attention, self.feed_forward = p.of("attention"), p.of("feed_forward")
        self.heads = head * (1 - (1 - vo).prod(-1))  # its gate and any of its v/o gates are open
        self.qk = qk.sum(-1) * self.heads  # queries and keys of a head without output are gone
        self.vo = vo.sum(-1) * head
        self.ffn = p.of("ffn").sum(-1)
        self.channels = [p.of(conv_kind(i)).sum() for i in range(len(config.conv))]


class _Probabilities:
    """P(z > 0) by kind, in double precision: 85 million does not fit into single precision to the last unit."""

    def __init__(self, config: EncoderConfig, given: Mapping[str, Tensor]) -> None:
        device = next(iter(given.values())).device if given else None
        self._given = given
        self._config = config
        self.one = torch.ones((), dtype=torch.double, device=device)

    def of(self, kind: str) -> Tensor:
        if kind in self._given:
            return self._given[kind].double()
        living = self._living[kind]
        if living.all():
            return self.one.expand(living.shape)  # filled in where the others are: a step copies nothing there
        return living.to(self.one.device).double()

    @cached_property
    def _living(self) -> dict[str, Tensor]:
        return living_places(self._config)


def expected_size(config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Expected parameters of each part of an encoder under independent gates, differentiable, in double precision.

    A v/o dimension counts if its own gate, its head's and its sublayer's are open. A q/k dimension needs besides its
    own gate and the sublayer's that some v/o dimension of its head lives, for a head without output is gone. A
    feed-forward dimension counts with its own gate and its sublayer's. Biases go with their rows, output biases with
    the sublayer, a head's position gate with the head.

    Args:
        config: the encoder, dense or pruned before.
        probabilities: P(z > 0) of each kind of gate, stacked as `gates.py` says; a kind that is missing is open where
            the encoder still has it.

    Returns:
        Scalars under the names of `model.size.parameters_by_part`.
    """
    widths = ExpectedWidths(config, probabilities)
    return {part: widths.one * count for part, count in parameters_by_part(config).items()} | {
        "attention": _attention(config, widths),
        "feed_forward": _feed_forward(config, widths),
        **_front_end(config, widths),
    }


def _attention(config: EncoderConfig, widths: ExpectedWidths) -> Tensor:
    d = config.embed_dim
    size = d + (2 * d + 1 + config.key_bias) * widths.qk.sum(1) + (2 * d + 1) * widths.vo.sum(1)  # (L,)
    if config.relative_position is not None and config.relative_position.gated:
        any_head = 1 - (1 - widths.heads).prod(1)  # (L,)
        size = size + GATE_WIDTH * (config.head_dim + 1) * any_head + widths.heads.sum(1)
    return (widths.attention * size).sum()


def _feed_forward(config: EncoderConfig, widths: ExpectedWidths) -> Tensor:
    d = config.embed_dim
    return (widths.feed_forward * ((2 * d + 1) * widths.ffn + d)).sum()


def _front_end(config: EncoderConfig, widths: ExpectedWidths) -> dict[str, Tensor]:
    """Convolutions, and the norm and projection that read their channels; gates of two layers are independent."""
    size, inputs = 0 * widths.one, config.input_channels * widths.one
    for number, (layer, channels) in enumerate(zip(config.conv, widths.channels, strict=True)):
        size = size + channels * (inputs * layer.kernel + config.conv_bias)
        if has_norm(config, number):
            size = size + 2 * channels
        inputs = channels
    if config.feature_scale:
        size = size + inputs
    projection = 2 * inputs if config.feature_norm else 0 * widths.one
    if config.has_projection:
        projection = projection + (inputs + 1) * config.embed_dim
    return {"front_end": size, "projection": projection}
