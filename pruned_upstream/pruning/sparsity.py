"""How large a gated encoder is expected to be, and what drives it to a target size.

One formula serves training, where a gate counts with its probability of being open, and the finished model, where it
counts 0 or 1: for every such pattern the formula gives the number of parameters that `compaction.py` leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..model.attention import GATE_WIDTH
from ..model.config import EncoderConfig
from ..model.gating import EncoderGates
from ..model.size import PRUNABLE_PARTS, has_norm, parameters_by_part
from .compaction import compact_config
from .gates import Gates, conv_kind, living_places

SCOPES = ("transformer", "everything")
PRICES = ("multipliers", "gentle")
SHIFT_RANGE = 16.0  # of log_alpha: beyond it every gate within the clamp is certain
SHIFT_HALVINGS = 24


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
    p = _Probabilities(config, probabilities)
    return {part: p.one * count for part, count in parameters_by_part(config).items()} | {
        "attention": _attention(config, p),
        "feed_forward": _feed_forward(config, p),
        **_front_end(config, p),
    }


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


def _attention(config: EncoderConfig, p: _Probabilities) -> Tensor:
    d, vo, qk, head = config.embed_dim, p.of("vo"), p.of("qk"), p.of("head")  # (L, H, w) twice, (L, H)
    living = head * (1 - (1 - vo).prod(-1))  # (L, H), its gate and any of its v/o gates are open
    size = d + (2 * d + 1 + config.key_bias) * (qk.sum(-1) * living).sum(-1)  # (L,)
    size = size + (2 * d + 1) * (vo.sum(-1) * head).sum(-1)
    if config.relative_position is not None and config.relative_position.gated:
        any_head = 1 - (1 - living).prod(-1)  # (L,)
        size = size + GATE_WIDTH * (config.head_dim + 1) * any_head + living.sum(-1)
    return (p.of("attention") * size).sum()


def _feed_forward(config: EncoderConfig, p: _Probabilities) -> Tensor:
    d = config.embed_dim
    dimensions = p.of("ffn").sum(-1)  # (L,)
    return (p.of("feed_forward") * ((2 * d + 1) * dimensions + d)).sum()


def _front_end(config: EncoderConfig, p: _Probabilities) -> dict[str, Tensor]:
    """Convolutions, and the norm and projection that read their channels; gates of two layers are independent."""
    size, inputs = 0 * p.one, config.input_channels * p.one
    for number, layer in enumerate(config.conv):
        channels = p.of(conv_kind(number)).sum()
        size = size + channels * (inputs * layer.kernel + config.conv_bias)
        if has_norm(config, number):
            size = size + 2 * channels
        inputs = channels
    if config.feature_scale:
        size = size + inputs
    projection = 2 * inputs if config.feature_norm else 0 * p.one
    if config.has_projection:
        projection = projection + (inputs + 1) * config.embed_dim
    return {"front_end": size, "projection": projection}


def expected_sparsity(config: EncoderConfig, probabilities: Mapping[str, Tensor], scope: str = "transformer") -> Tensor:
    """Share of the dense encoder's parameters that is expected to go: p_hat, a differentiable scalar.

    Args:
        scope: "transformer" takes the share of attention and feed-forward sublayers, as the paper does; "everything"
            that of the whole encoder, as DPHuBERT does.
    """
    expected = expected_size(config, probabilities)
    parts = _parts_in(scope, expected)
    dense = parameters_by_part(config.densified())
    return 1 - torch.stack([expected[part] for part in parts]).sum() / sum(dense[part] for part in parts)


def counted_sparsity(dense: EncoderConfig, compact: EncoderConfig, scope: str = "transformer") -> float:
    """Share of the parameters that is really gone from a compact encoder; `scope` as in `expected_sparsity`."""
    before, after = parameters_by_part(dense), parameters_by_part(compact)
    parts = _parts_in(scope, before)
    return 1 - sum(after[part] for part in parts) / sum(before[part] for part in parts)


def final_gates(gates: Gates, target: float | None = None, scope: str = "transformer") -> EncoderGates:
    """The gates to keep at the end of training.

    Rounding each group to its expected number leaves a model of nearly the expected size: a fine group is wrong by at
    most half a row, under 0.02 points in all at WavLM Base. What rounding does not explain comes from sublayers: there
    are few of them to round, and a dead one keeps under the clamp a few percent of probability, with which all that is
    in it is still expected, though it goes in full. That can make the counted sparsity a point or two the larger.

    Args:
        target: the counted sparsity that is wanted. How many dimensions are open is then shifted everywhere alike,
            the choice of sublayers kept, until the count is as near to it as whole rows allow. None takes what
            the rounding gives.
    """
    if target is None:
        return gates.deterministic()

    dense = gates.config.densified()

    def counted(shift: float) -> float:
        return counted_sparsity(dense, compact_config(gates.config, gates.deterministic(shift)), scope)

    low, high = -SHIFT_RANGE, SHIFT_RANGE  # fewest and most dimensions open: the sparsity falls from low to high
    for _ in range(SHIFT_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if counted(middle) > target else (low, middle)
    return gates.deterministic(min(low, high, key=lambda shift: abs(counted(shift) - target)))


def _parts_in(scope: str, parts: Mapping[str, object]) -> tuple[str, ...]:
    if scope not in SCOPES:
        raise ConfigError(f"the scope of sparsity is '{scope}'; it must be one of {', '.join(SCOPES)}")
    return PRUNABLE_PARTS if scope == "transformer" else tuple(parts)


class Price(nn.Module):
    """What a student pays for missing its target; gates descend on it."""

    def forward(self, expected: Tensor, target: float, gates: Sequence[nn.Parameter]) -> Tensor:
        """The penalty of a step.

        Args:
            expected: p_hat, from these gates.
            gates: which hold the gradient of the step's distillation, summed over processes.
        """
        raise NotImplementedError

    def multipliers(self) -> dict[str, Tensor]:
        """What is worth plotting, each a scalar."""
        raise NotImplementedError


class GentlePrice(Price):
    """-price * (p_hat - p), where the price is a share of what the gates hear from distillation.

    An ascended multiplier is an integral controller: it grows for as long as gates are on their way, and drives them
    past the target before it has shrunk again (Sohrabi et al., On PI Controllers for Updating Lagrange Multipliers,
    ICML 2024, treat that). This price follows the miss at once, is bounded, and knows no units: at `strength` 1 the
    size alone would move the gates as far as distillation alone, whatever the teacher, the loss and the learning rate.
    The optimiser divides both by the same root mean square, so that over n steps a gate drifts by about
    strength * gate_learning_rate * n.

    A gentle price may leave gates short of their target where steps are few. That is no loss: the exact cut goes on in
    the order of the gates (`final_gates`), which a strong price would have spoilt.

    Args:
        strength: of the price where the target is missed by `band` or more; within, it falls in proportion.
    """

    BAND = 0.05
    MEMORY = 0.98  # share of the gradients' means that the next step keeps

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength
        for name in ("distillation", "size", "price"):
            self.register_buffer(name, torch.zeros((), dtype=torch.double))

    def forward(self, expected: Tensor, target: float, gates: Sequence[nn.Parameter]) -> Tensor:
        by_size = torch.autograd.grad(expected, gates, retain_graph=True)
        self._remember(self.distillation, [gate.grad for gate in gates if gate.grad is not None])
        self._remember(self.size, by_size)
        miss = ((target - expected.detach()) / self.BAND).clamp(-1, 1)
        ratio = (self.distillation / self.size.clamp(min=torch.finfo(torch.double).tiny)).sqrt()
        self.price = self.strength * miss * ratio
        return -self.price * (expected - target)

    def multipliers(self) -> dict[str, Tensor]:
        return {"price": self.price.clone()}

    def _remember(self, mean: Tensor, gradients: Sequence[Tensor]) -> None:
        """Mean of the squared norm over the last steps; both means are short of the first steps in the same way."""
        square = sum((gradient.double().square().sum() for gradient in gradients), start=torch.zeros_like(mean))
        mean.mul_(self.MEMORY).add_((1 - self.MEMORY) * square)


class Lagrangian(Price):
    """lambda1 (p_hat - p) + lambda2 (p_hat - p)^2, the price of missing the target (equation 5).

    The gates descend on it while the two multipliers ascend, so that the price rises for as long as the target is
    missed: give them an optimiser group with `maximize=True` and no weight decay. Both start at 0 (CoFi).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected: Tensor, target: float, gates: Sequence[nn.Parameter] = ()) -> Tensor:
        excess = expected - target
        return self.lambda1 * excess + self.lambda2 * excess.square()

    def multipliers(self) -> dict[str, Tensor]:
        return {name: multiplier.detach().clone() for name, multiplier in self.named_parameters()}


@dataclass(frozen=True)
class TargetSparsity:
    """The target at each step: linear from 0 over `warmup_steps`, then constant."""

    final: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.final < 1:
            raise ConfigError(f"the target sparsity is {self.final}; it must be at least 0 and below 1")
        if self.warmup_steps < 0:
            raise ConfigError(f"the target sparsity warms up over {self.warmup_steps} steps; it cannot be below 0")

    def __call__(self, step: int) -> float:
        return self.final * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.final
