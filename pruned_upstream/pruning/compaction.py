"""From a gated encoder to a compact one: gates are folded into the weights, then what they have zeroed is cut away.

Folding leaves an encoder of the old shape that computes the same without gates; cutting takes out rows and columns
that no longer matter. What closes, and what goes with it:

    query/key dimension     its rows of q_proj and k_proj; a fractional gate goes into q_proj alone
    value/output dimension  its row of v_proj, which takes a fractional gate, and its column of out_proj
    head                    closes with its last v/o dimension: its q/k dimensions and its entry of grep_a. Without q/k
                            it lives on and attends by its position bias. Living heads keep their dense numbers
    feed-forward dimension  its row of fc1 and its column of fc2, which takes a fractional gate
    sublayer                all of it, output bias included. One whose own gate is open but whose dimensions are all
                            closed is its output bias. Layer norms and the shared table of position biases stay
    channel                 its filter, its entries in the norms and what reads it. A fractional gate goes into the
                            reader; before a norm over channels it stays a factor (the filter's, or the feature scale)
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import PrunedUpstreamError
from ..model.config import EncoderConfig, Head, TransformerLayer
from ..model.encoder import Encoder
from ..model.gating import EncoderGates, LayerGates
from ..model.size import has_norm

TOLERANCE = 1e-5  # largest difference over largest magnitude


@torch.no_grad()
def compact(encoder: Encoder, gates: EncoderGates) -> Encoder:
    """What is left of `encoder` when `gates` are final: the same outputs, in eval mode, without gates.

    Raises:
        PrunedUpstreamError: a gate is not a finite number, or a convolution loses every channel.
    """
    smaller = compact_config(encoder.config, gates)
    weights = fold(encoder, gates).state_dict()
    for name, dim, rows in _kept(encoder.config, gates):
        weights[name] = weights[name].index_select(
            dim, torch.tensor(rows, dtype=torch.long, device=weights[name].device)
        )
    return _build(smaller, weights, like=encoder)


@torch.no_grad()
def fold(encoder: Encoder, gates: EncoderGates) -> Encoder:
    """`encoder` in its old shape with `gates` multiplied into its weights, in eval mode ("masked").

    Raises:
        PrunedUpstreamError: a gate is not a finite number.
    """
    _check_finite(gates)
    last = _conv_gates(encoder.config, gates)[-1]  # closed channels must reach the feature norm as zeros
    config = dataclasses.replace(encoder.config, feature_scale=encoder.config.feature_scale or last is not None)
    weights = encoder.state_dict()
    if config.feature_scale:
        weights.setdefault("feature_extractor.scale", weights["post_extract_proj.weight"].new_ones(config.feature_dim))
    for name, dim, gate in _factors(config, gates):
        shape = [1] * weights[name].dim()
        shape[dim] = -1
        weights[name] = weights[name] * gate.view(shape)
    return _build(config, weights, like=encoder)


def compact_config(config: EncoderConfig, gates: EncoderGates) -> EncoderConfig:
    """The shape that `gates` leave of an encoder of shape `config`.

    Raises:
        PrunedUpstreamError: a gate is not a finite number, or a convolution loses every channel.
    """
    _check_finite(gates)
    channels = _living_channels(config, gates)
    for number, living in enumerate(channels):
        if not living:
            raise PrunedUpstreamError(
                f"the gates close every channel of convolution {number}; lower the target sparsity"
            )
    return dataclasses.replace(
        config,
        conv=tuple(dataclasses.replace(c, channels=len(rows)) for c, rows in zip(config.conv, channels, strict=True)),
        layers=tuple(_living(layer, layer_gates).shape for layer, layer_gates in _layers(config, gates)),
        feature_scale=_needs_feature_scale(config, gates),
    )


@torch.no_grad()
def verify(
    encoder: Encoder,
    gates: EncoderGates,
    smaller: Encoder,
    batches: Iterable[tuple[Tensor, Tensor | None]],
) -> float:
    """Largest difference between gated and compact hidden states over their largest magnitude, on valid frames.

    Where it is too large in single precision it is taken in double, in which rounding is no excuse.

    Args:
        smaller: what `compact` made of the two.
        batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them.

    Raises:
        PrunedUpstreamError: the difference is above `TOLERANCE` or not a number, or there was nothing to compare.
    """
    batches = list(batches)
    if not batches:
        raise PrunedUpstreamError("the compact model could not be compared with the gated one: there was no batch")
    worst = _largest_difference(encoder, gates, smaller, batches)
    if worst > TOLERANCE:  # deep models with a few huge dimensions blow single precision up, and nothing else
        in_double = [(waveforms.double(), lengths) for waveforms, lengths in batches]
        worst = _largest_difference(copy.deepcopy(encoder).double(), gates, copy.deepcopy(smaller).double(), in_double)
    if not worst <= TOLERANCE:
        raise PrunedUpstreamError(
            f"the compact model does not compute what the gated one does: their hidden states differ by {worst:.2g} of "
            f"the largest magnitude, and {TOLERANCE:g} is allowed"
        )
    return worst


def _largest_difference(
    encoder: Encoder, gates: EncoderGates, smaller: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]]
) -> float:
    differences = []
    with evaluating(encoder), evaluating(smaller), full_precision():
        for waveforms, lengths in batches:
            with torch.autocast(waveforms.device.type, enabled=False):
                gated = encoder(waveforms, lengths, gates=gates)
                states = smaller(waveforms, lengths).hidden_states
            valid = ... if gated.padding_mask is None else ~gated.padding_mask
            for ours, reference in zip(states, gated.hidden_states, strict=True):
                ours, reference = ours[valid], reference[valid]
                differences.append(((ours - reference).abs().max() / reference.abs().max()).item())
    return math.nan if any(map(math.isnan, differences)) else max(differences)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, and the mode from before it afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def full_precision() -> Iterator[None]:
    """Single precision that is computed as such, whatever training has allowed; all other settings stay."""
    backends: Any = torch.backends
    exact: bool | str
    if not hasattr(backends.cudnn, "conv"):  # torch before 2.9
        places, name, exact = [backends.cuda.matmul, backends.cudnn], "allow_tf32", False
    else:
        places = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
        name, exact = "fp32_precision", "ieee"
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, exact)
    try:
        yield
    finally:
        for place, setting in zip(places, before, strict=True):
            setattr(place, name, setting)


def _factors(config: EncoderConfig, gates: EncoderGates) -> Iterator[tuple[str, int, Tensor]]:
    """Which gate multiplies which tensor, along which dimension."""
    for number, (layer, given) in enumerate(_layers(config, gates)):
        attention, layer_name = f"encoder.layers.{number}.self_attn", f"encoder.layers.{number}"
        if given.qk is not None and layer.heads:
            yield f"{attention}.q_proj.weight", 0, given.qk
            yield f"{attention}.q_proj.bias", 0, given.qk
        if given.vo is not None and layer.heads:
            yield f"{attention}.v_proj.weight", 0, given.vo
            yield f"{attention}.v_proj.bias", 0, given.vo
        if given.attention is not None and layer.attention:
            if layer.heads:
                yield f"{attention}.out_proj.weight", 0, given.attention
            yield f"{attention}.out_proj.bias", 0, given.attention
        if given.ffn is not None and layer.ffn:
            yield f"{layer_name}.fc2.weight", 1, given.ffn
        if given.feed_forward is not None and layer.feed_forward:
            if layer.ffn:
                yield f"{layer_name}.fc2.weight", 0, given.feed_forward
            yield f"{layer_name}.fc2.bias", 0, given.feed_forward
    for number, gate in enumerate(_conv_gates(config, gates)):
        if gate is None:
            continue
        if config.extractor_mode == "layer_norm":
            yield f"{_filters(number)}.weight", 0, gate
            if config.conv_bias:
                yield f"{_filters(number)}.bias", 0, gate
        yield _reader(config, number), 1, gate
        if number == len(config.conv) - 1 and config.feature_scale:
            yield "feature_extractor.scale", 0, gate


def _kept(config: EncoderConfig, gates: EncoderGates) -> Iterator[tuple[str, int, list[int]]]:
    """Which rows or columns of which tensor stay; tensors of what is gone altogether are never named."""
    for number, (layer, given) in enumerate(_layers(config, gates)):
        attention, layer_name = f"encoder.layers.{number}.self_attn", f"encoder.layers.{number}"
        living = _living(layer, given)
        if living.heads:
            for projection, rows in (("q_proj", living.qk), ("k_proj", living.qk), ("v_proj", living.vo)):
                yield f"{attention}.{projection}.weight", 0, rows
                if config.key_bias or projection != "k_proj":
                    yield f"{attention}.{projection}.bias", 0, rows
            yield f"{attention}.out_proj.weight", 1, living.vo
            if config.relative_position is not None and config.relative_position.gated:
                yield f"{attention}.grep_a", 1, living.heads
        if living.ffn:
            yield f"{layer_name}.fc1.weight", 0, living.ffn
            yield f"{layer_name}.fc1.bias", 0, living.ffn
            yield f"{layer_name}.fc2.weight", 1, living.ffn
    for number, channels in enumerate(_living_channels(config, gates)):
        if len(channels) == config.conv[number].channels:
            continue
        yield f"{_filters(number)}.weight", 0, channels
        if config.conv_bias:
            yield f"{_filters(number)}.bias", 0, channels
        yield _reader(config, number), 1, channels
        for norm in _norms(config, number):
            yield f"{norm}.weight", 0, channels
            yield f"{norm}.bias", 0, channels
        if number == len(config.conv) - 1:
            yield "feature_extractor.scale", 0, channels


def _filters(number: int) -> str:
    return f"feature_extractor.conv_layers.{number}.0"


def _reader(config: EncoderConfig, number: int) -> str:
    """The weight whose columns take the channels of convolution `number`."""
    return "post_extract_proj.weight" if number == len(config.conv) - 1 else f"{_filters(number + 1)}.weight"


def _norms(config: EncoderConfig, number: int) -> list[str]:
    """The norms with an entry for each channel of convolution `number`."""
    norms = []
    if config.extractor_mode == "layer_norm":
        norms.append(f"feature_extractor.conv_layers.{number}.2.1")
    elif has_norm(config, number):
        norms.append(f"feature_extractor.conv_layers.{number}.2")
    if number == len(config.conv) - 1 and config.feature_norm:
        norms.append("layer_norm")
    return norms


class _Living(NamedTuple):
    """What remains of a transformer layer: its shape, and the places of its parts in the old layer."""

    shape: TransformerLayer
    heads: list[int]
    qk: list[int]
    vo: list[int]
    ffn: list[int]


def _living(layer: TransformerLayer, gates: LayerGates) -> _Living:
    attention = layer.attention and bool(_open_places(gates.attention, 1))
    feed_forward = layer.feed_forward and bool(_open_places(gates.feed_forward, 1))
    heads: dict[int, Head] = {}
    qk_rows: list[int] = []
    vo_rows: list[int] = []
    for place, (head, qk, vo) in enumerate(_rows_of_heads(layer, gates)):
        if attention and vo:
            heads[place] = Head(head.id, len(qk), len(vo))
            qk_rows += qk
            vo_rows += vo
    ffn = _open_places(gates.ffn, layer.ffn) if feed_forward else []
    shape = TransformerLayer(attention, tuple(heads.values()), feed_forward, len(ffn))
    return _Living(shape, list(heads), qk_rows, vo_rows, ffn)


def _rows_of_heads(layer: TransformerLayer, gates: LayerGates) -> Iterator[tuple[Head, list[int], list[int]]]:
    """Each head of a layer with its open q/k rows and its open v/o rows."""
    qk_open, vo_open = set(_open_places(gates.qk, layer.qk)), set(_open_places(gates.vo, layer.vo))
    qk = vo = 0
    for head in layer.heads:
        yield (
            head,
            [row for row in range(qk, qk + head.qk) if row in qk_open],
            [row for row in range(vo, vo + head.vo) if row in vo_open],
        )
        qk, vo = qk + head.qk, vo + head.vo


def _open_places(gate: Tensor | None, size: int) -> list[int]:
    return list(range(size)) if gate is None else gate.reshape(-1).nonzero().flatten().tolist()


def _layers(config: EncoderConfig, gates: EncoderGates) -> Iterator[tuple[TransformerLayer, LayerGates]]:
    return zip(config.layers, gates.layers, strict=True)


def _conv_gates(config: EncoderConfig, gates: EncoderGates) -> Sequence[Tensor | None]:
    return [None] * len(config.conv) if gates.conv is None else gates.conv


def _living_channels(config: EncoderConfig, gates: EncoderGates) -> list[list[int]]:
    return [
        _open_places(gate, layer.channels) for layer, gate in zip(config.conv, _conv_gates(config, gates), strict=True)
    ]


def _needs_feature_scale(config: EncoderConfig, gates: EncoderGates) -> bool:
    """Whether the last convolution has a gate between 0 and 1: no weight ahead of the feature norm could take it."""
    last = _conv_gates(config, gates)[-1]
    return config.feature_scale or (last is not None and not ((last == 0) | (last == 1)).all())


def _check_finite(gates: EncoderGates) -> None:
    layers = enumerate(gates.layers, start=1)
    named = [(f"layer {i}, {kind}", g) for i, layer in layers for kind, g in layer._asdict().items()]
    named += [(f"convolution {i}", gate) for i, gate in enumerate(gates.conv or ())]
    for name, gate in named:
        if gate is not None and not gate.isfinite().all():
            raise PrunedUpstreamError(f"a gate is not a finite number ({name}): training has diverged")


def _build(config: EncoderConfig, weights: Mapping[str, Tensor], *, like: Encoder) -> Encoder:
    """An encoder of shape `config` with those of `weights` that it has a place for, on the device of `like`."""
    with torch.device("meta"):  # no random weights are drawn to be thrown away
        encoder = Encoder(config)
    encoder.load_state_dict({name: weights[name].clone() for name in encoder.state_dict()}, assign=True)
    return encoder.to(next(like.parameters()).device).eval()
