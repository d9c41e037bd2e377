"""Closed-form repair: output matrices are refitted so that the pruned stream meets the dense one again.

What has been cut no longer adds its part to the residual stream, but much of that part can be said by what is left.
From the bottom up, each matrix that writes to the stream (the projection behind pruned channels, `out_proj`, `fc2`)
and its bias are moved by damped least squares,

    minimise over D:  sum over frames of |e - D c|^2 + damping * mean(c^2) * |D|^2,      W <- W + D

where c is what the matrix reads in the student, whose matrices below are refitted already, and e how far the student's
stream, after the sublayer and before any norm, is from the teacher's. The bias is not damped. D = 0 is always allowed,
so that no sublayer's error can rise on the speech that is fitted; where nothing was cut e is zero, and nothing moves.

Nothing is learned by gradients: some minutes of speech and one pass through the layers are all it takes. The idea is
that of layer-wise reconstruction after pruning (OSSCAR, Meng et al., ICML 2024; FASP, Hu et al., 2025).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..model.attention import BiasOnly
from ..model.encoder import Encoder, TransformerEncoderLayer
from .compaction import evaluating, full_precision

log = logging.getLogger(__name__)

DAMPING = 0.01  # of the mean square of what a matrix reads
NEVER_FIRES = 1e-12


@dataclass(frozen=True)
class Repaired:
    """What a repair gained on the speech that it was fitted to.

    before, after: distance of the student's layers from the teacher's of the same number, as a share of the variance
        of the teacher's, mean over the layers.
    frames: that were fitted, without padding.
    """

    encoder: Encoder
    before: float
    after: float
    frames: int


@torch.no_grad()
def repair(
    teacher: Encoder,
    student: Encoder,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    damping: float = DAMPING,
) -> Repaired:
    """Refit what a pruned student writes to its residual stream; the student that is given stays as it is.

    Where the fit of each sublayer has not brought the layers nearer to the teacher's all in all, which few frames and
    a hard cut can bring about, what comes back is an unchanged copy.

    Args:
        teacher: as deep and as wide as the student; layers are matched by number.
        batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them, on the models' device.

    Raises:
        ConfigError: they are no pair (`check_pair`).
        DataError: there is no batch.
    """
    check_pair(teacher, student)
    heard = list(batches)
    if not heard:
        raise DataError("a repair needs speech to be fitted to, and there was none")
    repaired = copy.deepcopy(student)
    with evaluating(teacher), evaluating(student), full_precision():
        dense, cut = _Stack(teacher, heard), _Stack(student, heard)
        repaired.eval()
        if student.config.conv != teacher.config.conv and student.post_extract_proj is not None:
            _refit_projection(repaired, dense, heard, damping)
        ours = _Stack(repaired, heard)
        errors = []
        for number in range(student.config.num_layers):
            wanted = dense.advance(number)
            ours.refit(number, ATTENTION, [streams.attention for streams in wanted], damping)
            ours.refit(number, FEED_FORWARD, [streams.feed_forward for streams in wanted], damping)
            cut.advance(number)
            ours.advance(number)
            errors.append([stack.unexplained(dense) for stack in (cut, ours)])
    before, after = torch.tensor(errors, dtype=torch.double).mean(0).tolist()
    frames = sum(int(valid.sum()) for valid in ours.valid)
    if not after <= before:
        log.warning("the repair is left out: it brings the layers no nearer (%.4g before, %.4g after)", before, after)
        return Repaired(copy.deepcopy(student).eval(), before, before, frames)
    return Repaired(repaired, before, after, frames)


@torch.no_grad()
def distance(teacher: Encoder, student: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]]) -> float:
    """Of the student's layers from the teacher's of the same number, as `Repaired` tells it; raises as `repair`."""
    check_pair(teacher, student)
    heard = list(batches)
    if not heard:
        raise DataError("a distance needs speech to be taken on, and there was none")
    with evaluating(teacher), evaluating(student), full_precision():
        dense, ours = _Stack(teacher, heard), _Stack(student, heard)
        shares = []
        for number in range(student.config.num_layers):
            dense.advance(number)
            ours.advance(number)
            shares.append(ours.unexplained(dense))
    return sum(shares) / len(shares)


class Streams(NamedTuple):
    """The residual stream of a layer after each of its sublayers, before any norm: (B, T, d) each."""

    attention: Tensor
    feed_forward: Tensor


ATTENTION, FEED_FORWARD = range(2)  # places in `Streams`


class _Stack:
    """An encoder's layers on all batches at once: where each batch is, layer by layer.

    projected: (B, T, d) of each batch, before the position convolution.
    states: what the next layer is given, (B, T, d) of each batch; of models that hear windows, (B W, P, d).
    biases: what every layer is given besides.
    valid: as the states without d, True at frames that count.
    """

    def __init__(self, encoder: Encoder, heard: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        self.encoder = encoder
        self.projected: list[Tensor] = []
        self.states: list[Tensor] = []
        self.biases: list[Sequence[Any]] = []
        self.valid: list[Tensor] = []
        with without_layers(encoder) as given:
            for waveforms, lengths in heard:
                output = encoder(waveforms, lengths)
                x, *biases = given.pop()
                self.projected.append(output.projected)
                self.states.append(x)
                self.biases.append(biases)
                self.valid.append(frames_that_count(output.padding_mask, output.projected, x))

    def advance(self, number: int) -> list[Streams]:
        """Pass layer `number`; its streams on each batch."""
        layer = self.encoder.encoder.layers[number]
        found = []
        with observed(layer) as seen:
            for place, (x, biases) in enumerate(zip(self.states, self.biases, strict=True)):
                self.states[place] = layer(x, *biases)
                found.append(seen.streams)
        return found

    def refit(self, number: int, sublayer: int, wanted: Sequence[Tensor], damping: float) -> None:
        """Refit the output matrix of a sublayer of layer `number`, if it has one, to the streams (B, T, d) wanted."""
        layer = self.encoder.encoder.layers[number]
        output = output_of(layer, sublayer)
        if output is None:
            return
        fit = _LeastSquares(output)
        with observed(layer) as seen:
            for x, biases, target, valid in zip(self.states, self.biases, wanted, self.valid, strict=True):
                layer(x, *biases)
                fit.add(cast(Tensor, seen.read[sublayer])[valid], (target - seen.streams[sublayer])[valid])
        fit.apply(damping)

    def unexplained(self, other: _Stack) -> float:
        """Squared distance from another stack's states on valid frames, over the variance of those."""
        ours, theirs = (
            torch.cat([x[valid] for x, valid in zip(states, self.valid, strict=True)]).double()
            for states in (self.states, other.states)
        )
        return ((ours - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum()).item()


class _LeastSquares:
    """The normal equations of one matrix, gathered in double precision, and the step that solves them."""

    def __init__(self, output: nn.Linear | BiasOnly) -> None:
        self.output = output
        self.weight = output.weight if isinstance(output, nn.Linear) else None  # None: it is a bias alone
        inputs, device = 0 if self.weight is None else self.weight.size(1), output.bias.device
        self.gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.double, device=device)  # of [c, 1]
        self.moment = torch.zeros(inputs + 1, len(output.bias), dtype=torch.double, device=device)  # of [c, 1] with e

    def add(self, read: Tensor, error: Tensor) -> None:
        """Frames: what the matrix reads in them (N, n), which a bias alone does not look at, and the error (N, d)."""
        error = error.double()
        ones = error.new_ones(len(error), 1)
        c = ones if self.weight is None else torch.cat([read.double(), ones], dim=1)
        self.gram += c.t() @ c
        self.moment += c.t() @ error

    def apply(self, damping: float) -> None:
        damped = torch.zeros_like(self.gram[0])
        if self.weight is not None:
            frames = self.gram[-1, -1]  # of which a trace keeps what never fires from being undetermined
            damped[:-1] = damping * self.gram.diagonal()[:-1].mean() + NEVER_FIRES * frames
        step = torch.linalg.solve(self.gram + damped.diag(), self.moment)  # (n + 1, d)
        if self.weight is not None:
            self.weight.copy_(self.weight.double() + step[:-1].t())
        self.output.bias.copy_(self.output.bias.double() + step[-1])


class Observation:
    """What a layer's last forward pass showed: `streams`, and what each output matrix read."""

    def __init__(self) -> None:
        self.read: list[Tensor | None] = [None, None]
        self.streams = Streams(torch.empty(0), torch.empty(0))


def output_of(layer: TransformerEncoderLayer, sublayer: int) -> nn.Linear | BiasOnly | None:
    """The matrix (or the bias alone) by which a sublayer writes to the stream; None where the sublayer is gone."""
    if sublayer == ATTENTION:
        return None if layer.self_attn is None else layer.self_attn.out_proj
    return layer.fc2


@contextmanager
def observed(layer: TransformerEncoderLayer) -> Iterator[Observation]:
    """Watch a layer's forward passes."""
    seen = Observation()
    after_attention = layer.final_layer_norm if layer.layer_norm_first else layer.self_attn_layer_norm

    def read(sublayer: int) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.read[sublayer] = inputs[0]

        return keep

    def keep_attention(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.streams = seen.streams._replace(attention=inputs[0])

    def keep_feed_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        seen.streams = seen.streams._replace(feed_forward=inputs[0] if output is None else output)

    hooks = [after_attention.register_forward_pre_hook(keep_attention)]
    if layer.layer_norm_first:
        hooks.append(layer.register_forward_hook(keep_feed_forward))
    else:
        hooks.append(layer.final_layer_norm.register_forward_pre_hook(keep_feed_forward))
    for sublayer in (ATTENTION, FEED_FORWARD):
        output = output_of(layer, sublayer)
        if output is not None:
            hooks.append(output.register_forward_pre_hook(read(sublayer)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def frames_that_count(padding_mask: Tensor | None, own: Tensor, x: Tensor) -> Tensor:
    """Which frames of `x` are speech: True where they are.

    Args:
        padding_mask: (B, T), of the recordings' own frames; None where nothing is padded.
        own: (B, T, ...).
        x: the same frames (B, T, ...), or in windows, (B W, P, ...): recording after recording, filled up with silence.
    """
    valid = torch.ones(own.shape[:2], dtype=torch.bool, device=x.device) if padding_mask is None else ~padding_mask
    rows, width = x.shape[:2]
    filled = rows * width // len(valid) - valid.size(1)
    return F.pad(valid, (0, filled)).view(rows, width)


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
    """What a module is given, call after call."""
    given: list[tuple[Any, ...]] = []
    hook = module.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    try:
        yield given
    finally:
        hook.remove()


class _Recorder(nn.Module):
    """Stands where the layers stand, and keeps what the first is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Any, ...]] = []

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        self.given.append((x, *others))
        return x


@contextmanager
def without_layers(encoder: Encoder) -> Iterator[list[tuple[Any, ...]]]:
    """An encoder that computes no layer; what its first would be given, call after call."""
    transformer, recorder = encoder.encoder, _Recorder()
    layers = transformer.layers
    transformer.layers = cast(Any, nn.ModuleList([recorder]))
    try:
        yield recorder.given
    finally:
        transformer.layers = layers


def _refit_projection(
    student: Encoder, dense: _Stack, heard: Sequence[tuple[Tensor, Tensor | None]], damping: float
) -> None:
    """What reads other channels than the teacher's projection is to meet the teacher's projected features."""
    projection = cast(nn.Linear, student.post_extract_proj)
    fit = _LeastSquares(projection)
    with inputs_of(projection) as read:
        for (waveforms, lengths), target in zip(heard, dense.projected, strict=True):
            output = student(waveforms, lengths)
            valid = frames_that_count(output.padding_mask, target, target)
            fit.add(read.pop()[0][valid], (target - output.projected)[valid])
    fit.apply(damping)


def check_pair(teacher: Encoder, student: Encoder) -> None:
    """Refuse a teacher whose layers cannot be the student's, number by number.

    Raises:
        ConfigError: they have other depths, widths, frame rates or norms, are of other families, or one hears windows
            of 30 s and the other recordings as long as they are.
    """
    theirs, ours = teacher.config, student.config
    for what, a, b in (
        ("layers", theirs.num_layers, ours.num_layers),
        ("dimensions", theirs.embed_dim, ours.embed_dim),
        ("samples per frame", theirs.downsample_rate, ours.downsample_rate),
    ):
        if a != b:
            raise ConfigError(
                f"the teacher has {a} {what} and the student {b}; a repair matches layers by number, so name the "
                "teacher that the student was pruned from"
            )
    if theirs.layer_norm_first != ours.layer_norm_first:
        raise ConfigError("teacher and student place their layer norms differently; name the student's own teacher")
    if theirs.family != ours.family:
        raise ConfigError(
            f"the teacher is of the family {theirs.family} and the student of {ours.family}; name the student's own "
            "teacher"
        )
    if theirs.whole_windows != ours.whole_windows:
        forms = {True: "whole windows", False: "recordings at their own length"}
        raise ConfigError(
            f"the teacher hears {forms[theirs.whole_windows]} and the student {forms[ours.whole_windows]}; name the "
            "teacher in the student's form, which `convert` makes with --own-length or without it"
        )
