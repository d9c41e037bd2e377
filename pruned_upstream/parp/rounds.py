"""When to prune: PARP and its baselines as sequences of finetunings, and the schedule inside one of them.

| method | what it does |
|---|---|
| dense | finetunes |
| rpi | prunes at random, finetunes with the mask fixed |
| mpi | prunes the smallest pre-trained weights, finetunes with the mask fixed |
| omp | finetunes, prunes the smallest finetuned weights, finetunes again with the mask fixed |
| imp | as omp in several rounds of rising sparsity, each from the pre-trained weights again ("rewinding") |
| parp | prunes as mpi, but pruned weights go on to learn; every few updates the smallest are pruned anew |
| parp_p | parp whose sparsity rises on the way |

Lai et al., "PARP: Prune, Adjust and Re-Prune for Self-Supervised Speech Recognition" (NeurIPS 2021), section 3. All
methods get the same number of updates, which omp and imp divide among their rounds; the paper gives each round as many
as PARP has in all, which is `optimisation.steps` times the number of rounds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..parsing import require, require_one_of
from .masks import SCOPES, Masks, full_masks, magnitude_masks, random_masks, sparsity_of

METHODS = ("dense", "rpi", "mpi", "omp", "imp", "parp", "parp_p")
STARTS_FROM_A_MASK = ("mpi", "parp", "parp_p")  # what a mask from another run can be given to
MODULES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class ParpSettings:
    """What is pruned, and how."""

    method: str = "parp"  # dense, rpi, mpi, omp, imp, parp or parp_p
    sparsity: float = 0.5  # share of the weights of `modules`, exact to one weight
    modules: list[str] = field(default_factory=lambda: list(MODULES))  # matrices of each layer that are pruned
    scope: str = "global"  # magnitudes are compared over all matrices, or within each "matrix"
    every: int = 50  # updates between two prunings (parp, parp_p)
    # model file of another run, whose mask is the first (mpi, parp, parp_p)
    mask: str | None = field(default=None, metadata={"kind": "input"})
    initial_sparsity: float | None = None  # parp_p: where it starts; half of `sparsity` by default
    rise: float = 0.5  # parp_p: share of the updates with an unfrozen encoder over which it rises
    rounds: int = 3  # imp: prunings
    rewind: bool | None = None  # later rounds start from the pre-trained weights; imp does, omp does not

    def check(self) -> None:
        """Raises ConfigError, which names the key, when a value is impossible."""
        start = self.initial_sparsity
        require_one_of("parp.method", self.method, METHODS)
        require(0 <= self.sparsity < 1, "parp.sparsity", self.sparsity, "be from 0 to below 1")
        require(bool(self.modules), "parp.modules", self.modules, "name at least one module")
        require_one_of("parp.scope", self.scope, SCOPES)
        require(self.every >= 1, "parp.every", self.every, "be at least 1")
        require(
            start is None or 0 <= start <= self.sparsity,
            "parp.initial_sparsity",
            start,
            "be from 0 to parp.sparsity, or null",
        )
        require(0 < self.rise <= 1, "parp.rise", self.rise, "be above 0 and at most 1")
        require(self.rounds >= 1, "parp.rounds", self.rounds, "be at least 1")
        require(
            self.mask is None or self.method in STARTS_FROM_A_MASK,
            "parp.mask",
            self.mask,
            f"be null, since {self.method} makes its own; {', '.join(STARTS_FROM_A_MASK)} take one",
        )


@dataclass(frozen=True)
class Round:
    """One finetuning.

    mask: "none", "magnitude" (of the weights that the round before left) or "random".
    initial, sparsity: at its start and from its end on; equal but for parp_p.
    adjusts: pruned weights learn and may come back; else they stay zero.
    fresh: starts from the pre-trained weights and a new head; else from where the round before ended.
    """

    mask: str
    initial: float
    sparsity: float
    adjusts: bool = False
    fresh: bool = True


def rounds_of(settings: ParpSettings) -> list[Round]:
    """The finetunings of a method, one after another."""
    target, method = settings.sparsity, settings.method
    if method == "dense":
        return [_DENSE]
    if method in ("rpi", "mpi"):
        return [Round("random" if method == "rpi" else "magnitude", target, target)]
    if method == "parp":
        return [Round("magnitude", target, target, adjusts=True)]
    if method == "parp_p":
        start = target / 2 if settings.initial_sparsity is None else settings.initial_sparsity
        return [Round("magnitude", start, target, adjusts=True)]
    rounds = settings.rounds if method == "imp" else 1
    fresh = settings.rewind if settings.rewind is not None else method == "imp"
    # each round takes the same share of what the one before left
    levels = [1 - (1 - target) ** (number / rounds) for number in range(1, rounds)] + [target]
    return [_DENSE, *(Round("magnitude", level, level, fresh=fresh) for level in levels)]


_DENSE = Round("none", 0.0, 0.0)


class Pruner:
    """Keeps weights of any network pruned while it is trained.

    >>> pruner = Pruner(prunable_weights(model, ["fc1", "fc2"]), round_, steps=1000, every=50)
    >>> pruner.start(magnitude_masks(pruner.weights, round_.initial))
    >>> for step in range(1000):
    ...     loss(model).backward()
    ...     pruner.after_backward()
    ...     optimiser.step()
    ...     pruner.after_update(step + 1)

    Args:
        weights: what is pruned, by name; changed in place.
        steps: updates of the whole training.
        every: updates between two prunings.
        frozen: first updates that do not reach the weights; pruning waits for the rest.
        rise: share of the rest over which the sparsity rises, if it does.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        round_: Round,
        *,
        steps: int,
        every: int = 50,
        frozen: int = 0,
        rise: float = 0.5,
        scope: str = "global",
    ) -> None:
        self.weights = dict(weights)
        self.round = round_
        self.steps = steps
        self.every = every
        self.frozen = frozen
        self.rise = rise
        self.scope = scope
        self.masks: Masks = full_masks(self.weights)
        self.revived = 0  # weights that the latest pruning let come back

    def first_masks(self, *, seed: int) -> Masks:
        """The round's first masks, from the weights as they are."""
        if self.round.mask == "random":
            return random_masks(self.weights, self.round.initial, self.scope, seed=seed)
        return magnitude_masks(self.weights, self.round.initial if self.round.mask == "magnitude" else 0.0, self.scope)

    def start(self, masks: Masks) -> None:
        """Prune for the first time."""
        self.masks = masks
        self._apply()

    def sparsity(self, done: int) -> float:
        """Where the schedule is after so many updates."""
        rising = self.rise * (self.steps - self.frozen)
        progress = 1.0 if done >= self.steps else min(1.0, max(0.0, (done - self.frozen) / max(1.0, rising)))
        return self.round.initial + progress * (self.round.sparsity - self.round.initial)

    def due(self, done: int) -> bool:
        """Whether weights are chosen anew after so many updates; always after the last."""
        if not self.round.adjusts:
            return False
        return done == self.steps or (done > self.frozen and (done - self.frozen) % self.every == 0)

    def after_backward(self) -> None:
        """Where the mask is fixed, pruned weights get no gradient, so that they do not count in its norm either."""
        if not self.round.adjusts and self.round.sparsity:
            for name, weight in self.weights.items():
                if weight.grad is not None:
                    weight.grad.mul_(self.masks[name])

    def after_update(self, done: int) -> None:
        """Keep a fixed mask; choose anew where that is due, and leave pruned weights to learn in between.

        Args:
            done: updates so far.
        """
        if self.due(done):
            masks = magnitude_masks(self.weights, self.sparsity(done), self.scope)
            self.revived = int(sum((mask & ~self.masks[name]).sum() for name, mask in masks.items()))
            self.start(masks)
        elif not self.round.adjusts and self.round.sparsity:
            self._apply()  # weight decay and momentum know nothing of masks

    def state_dict(self) -> dict[str, Any]:
        """The masks and how many weights came back to life."""
        return {"masks": dict(self.masks), "revived": self.revived}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.masks = {name: state["masks"][name].to(weight.device) for name, weight in self.weights.items()}
        self.revived = state["revived"]

    def check(self, masks: Mapping[str, Tensor], source: str) -> Masks:
        """Masks from elsewhere, if they fit.

        Raises:
            ConfigError: they are of other weights, or of another sparsity than the round starts with.
        """
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        if {name: tuple(mask.shape) for name, mask in masks.items()} != shapes:
            raise ConfigError(f"the masks in {source} are not of the weights that parp.modules names in this network")
        found = sparsity_of(masks)
        if abs(found - self.round.initial) * sum(mask.numel() for mask in masks.values()) > len(masks):
            raise ConfigError(
                f"the masks in {source} have a sparsity of {found:.4f} and the run starts with "
                f"{self.round.initial:.4f}; set parp.sparsity={found:.4f}, or parp.initial_sparsity for parp_p"
            )
        return {name: masks[name].to(weight.device) for name, weight in self.weights.items()}

    @torch.no_grad()
    def _apply(self) -> None:
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])
