"""How sparse a gated encoder is expected to be, what drives it to a target, and which gates remain at the end.

What sparsity is a share of is a matter of `cost.py`: of parameters, of multiply-accumulates, or of time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.config import EncoderConfig
from ..model.gating import EncoderGates
from ..parsing import require
from .compaction import compact_config
from .cost import Cost, cost_of
from .gates import CONV, Gates, GateSettings, encoder_gates, gate_shapes

PRICES = ("multipliers", "gentle")
SHIFT_RANGE = 16.0  # of log_alpha: beyond it every gate within the clamp is certain
SHIFT_HALVINGS = 24


def expected_sparsity(
    config: EncoderConfig, probabilities: Mapping[str, Tensor], cost: Cost | str = "transformer"
) -> Tensor:
    """Share of the dense encoder's cost that is expected to go: p_hat, a differentiable scalar.

    Args:
        cost: what it is a share of, or the name of one of the `SCOPES` that a shape alone decides.
    """
    cost = cost_of(cost) if isinstance(cost, str) else cost
    return 1 - cost.expected(config, probabilities) / cost.counted(config.densified())


def counted_sparsity(dense: EncoderConfig, compact: EncoderConfig, cost: Cost | str = "transformer") -> float:
    """Share of the cost that is really gone from a compact encoder; `cost` as in `expected_sparsity`."""
    cost = cost_of(cost) if isinstance(cost, str) else cost
    return 1 - cost.counted(compact) / cost.counted(dense)


def largest_sparsity(config: EncoderConfig, settings: GateSettings, cost: Cost | str = "transformer") -> float:
    """What is gone when all gates are closed that `settings` asks for, but for one channel of each convolution."""
    closed = {kind: torch.zeros(shape) for kind, shape in gate_shapes(config, settings).items()}
    for kind, gates in closed.items():
        if kind.startswith(CONV):
            gates[0] = 1.0
    return counted_sparsity(config.densified(), compact_config(config, encoder_gates(config, closed)), cost)


def final_gates(gates: Gates, target: float | None = None, cost: Cost | str = "transformer") -> EncoderGates:
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

    def nearest(shifted: Callable[[float], EncoderGates]) -> float:
        def counted(shift: float) -> float:
            return counted_sparsity(dense, compact_config(gates.config, shifted(shift)), cost)

        low, high = -SHIFT_RANGE, SHIFT_RANGE  # fewest and most dimensions open: the sparsity falls from low to high
        for _ in range(SHIFT_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if counted(middle) > target else (low, middle)
        return min(low, high, key=lambda shift: abs(counted(shift) - target))

    shift = of_heads = nearest(gates.deterministic)
    if "head" in gates.log_alpha:  # a head is many rows; those of the other kinds make up for its rounding
        shift = nearest(lambda shift: gates.deterministic(shift, of_heads=of_heads))
    return gates.deterministic(shift, of_heads=of_heads)


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

    distillation: Tensor
    size: Tensor
    price: Tensor

    BAND = 0.05
    MEMORY = 0.98  # share of the gradients' means that the next step keeps

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength
        for name in ("distillation", "size", "price"):
            self.register_buffer(name, torch.zeros((), dtype=torch.double))

    def forward(self, expected: Tensor, target: float, gates: Sequence[nn.Parameter]) -> Tensor:
        """The price, a scalar; to be called when the distillation's gradients have reached the gates."""
        by_size = torch.autograd.grad(expected, gates, retain_graph=True)
        self._remember(self.distillation, [gate.grad for gate in gates if gate.grad is not None])
        self._remember(self.size, by_size)
        miss = ((target - expected.detach()) / self.BAND).clamp(-1, 1)
        ratio = (self.distillation / self.size.clamp(min=torch.finfo(torch.double).tiny)).sqrt()
        self.price = self.strength * miss * ratio
        return -self.price * (expected - target)

    def multipliers(self) -> dict[str, Tensor]:
        """What logs show: the price."""
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
        """Equation 5's second and third term, lambda1 (s - t) + lambda2 (s - t)^2: a scalar."""
        excess = expected - target
        return self.lambda1 * excess + self.lambda2 * excess.square()

    def multipliers(self) -> dict[str, Tensor]:
        """What logs show: lambda1 and lambda2."""
        return {name: multiplier.detach().clone() for name, multiplier in self.named_parameters()}


@dataclass(frozen=True)
class TargetSparsity:
    """The target at each step: linear from `initial` over `warmup_steps`, then constant."""

    final: float
    warmup_steps: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.final < 1, "the target sparsity", self.final, "be at least 0 and below 1")
        require(self.warmup_steps >= 0, "the warm-up of the target sparsity", self.warmup_steps, "be at least 0 steps")

    def __call__(self, step: int) -> float:
        """The target at this step."""
        risen = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.initial + (self.final - self.initial) * risen


class Plateaus:
    """Several targets, one after another, each over an equal share of the steps.

    Args:
        targets: rising.
        warmup: share of a target's steps over which it rises from the one before, the first from 0.
    """

    def __init__(self, targets: Sequence[float], steps: int, warmup: float) -> None:
        self.ends = plateau_ends(len(targets), steps)
        self.starts = [0, *self.ends[:-1]]
        self.rises = [
            TargetSparsity(target, round(warmup * (end - start)), initial)
            for target, start, end, initial in zip(targets, self.starts, self.ends, [0.0, *targets[:-1]], strict=True)
        ]

    def __call__(self, step: int) -> float:
        """The target at this step."""
        number = min(bisect_right(self.ends, step), len(self.ends) - 1)
        return self.rises[number](step - self.starts[number])


def plateau_ends(count: int, steps: int) -> list[int]:
    """The steps at which each of `count` plateaus ends."""
    return [round(steps * (number + 1) / count) for number in range(count)]
