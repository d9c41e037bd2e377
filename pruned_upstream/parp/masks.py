"""Which weights live: masks by magnitude or by chance with an exact number of zeros, and how alike two of them are.

A mask has the shape of its weight and is True where the weight lives. The masks of a network are a dictionary from
parameter names to masks. Nothing here knows what kind of network it is.

torch.nn.utils.prune is not used: it replaces a weight by a masked copy of it through a forward hook, so that pruned
weights get no gradient, and could not revive; and modules that read a weight without calling its module, as the fused
attention does, would never see the mask. It is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError

Masks = dict[str, Tensor]

# where weights compete for their place: all of them with each other, or those of each matrix among themselves
SCOPES = ("global", "matrix")


def prunable_weights(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The matrices of all sub-modules that are called one of `names`, by parameter name.

    >>> list(prunable_weights(encoder, ["q_proj"]))[0]
    'encoder.layers.0.self_attn.q_proj.weight'

    Raises:
        ConfigError: a name fits no sub-module with a matrix.
    """
    weights: dict[str, nn.Parameter] = {}
    unused = set(names)
    for path, part in module.named_modules():
        own_name = path.rpartition(".")[2]
        weight = getattr(part, "weight", None)
        if own_name in names and isinstance(weight, nn.Parameter) and weight.dim() > 1:
            weights[f"{path}.weight"] = weight
            unused.discard(own_name)
    if unused:
        raise ConfigError(
            f"no matrix of the network belongs to a module called {', '.join(sorted(unused))}; check parp.modules"
        )
    return weights


def zeros(sparsity: float, weights: int) -> int:
    """How many of so many weights a sparsity takes."""
    return round(sparsity * weights)


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float, scope: str = "global") -> Masks:
    """Masks that take the smallest weights, `zeros(sparsity, ...)` of them to the weight.

    Where magnitudes are equal, the first in the order of `weights` goes first.
    """
    return _without_smallest({name: weight.detach().abs() for name, weight in weights.items()}, sparsity, scope)


def random_masks(weights: Mapping[str, Tensor], sparsity: float, scope: str = "global", *, seed: int) -> Masks:
    """Masks that take as many weights as `magnitude_masks`, any of them."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same masks whatever device trains
    scores = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    masks = _without_smallest(scores, sparsity, scope)
    return {name: mask.to(weights[name].device) for name, mask in masks.items()}


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that take nothing, of the shapes of `weights`."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """Share of weights that the masks take."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total


def _without_smallest(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> Masks:
    if scope not in SCOPES:
        raise ValueError(f"scope is '{scope}'; it must be one of {SCOPES}")
    if scope == "matrix":
        return {name: ~_smallest(s.flatten(), zeros(sparsity, s.numel())).view_as(s) for name, s in scores.items()}
    flat = torch.cat([score.flatten() for score in scores.values()])
    pieces = (~_smallest(flat, zeros(sparsity, len(flat)))).split([score.numel() for score in scores.values()])
    return {name: piece.view_as(scores[name]) for name, piece in zip(scores, pieces, strict=True)}


def _smallest(scores: Tensor, count: int) -> Tensor:
    """(N,) bool, True at exactly `count` smallest of N scores, the first of equals first."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values
    below, equal = scores < threshold, scores == threshold
    return below | (equal & (equal.cumsum(0, dtype=torch.int32) <= count - below.sum()))


@dataclass(frozen=True)
class Overlap:
    """Intersection over union of what lives in two sets of masks.

    chance: what two independent random masks of these sparsities are expected to reach.
    layers: by number of the layer, from 1. kinds: by name of the module (q_proj, fc1 ...). matrices: by parameter name.
    """

    whole: float
    chance: float
    layers: dict[int, float]
    kinds: dict[str, float]
    matrices: dict[str, float]


def overlap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Overlap:
    """How alike two masks of one kind of network are.

    Raises:
        ConfigError: they do not belong to networks of one shape.
    """
    if {name: mask.shape for name, mask in a.items()} != {name: mask.shape for name, mask in b.items()}:
        raise ConfigError("the masks belong to networks of other shapes, or other modules were pruned")
    places = {name: place(name) for name in a}
    layers = sorted({layer for layer, _ in places.values() if layer is not None})
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    alive, also = 1 - sparsity_of(a), 1 - sparsity_of(b)
    both = alive * also
    return Overlap(
        whole=_iou(a, b, a),
        chance=both / (alive + also - both) if alive + also else 1.0,
        layers={layer: _iou(a, b, [n for n in a if places[n][0] == layer]) for layer in layers},
        kinds={kind: _iou(a, b, [n for n in a if places[n][1] == kind]) for kind in kinds},
        matrices={name: _iou(a, b, [name]) for name in a},
    )


def place(name: str) -> tuple[int | None, str]:
    """(layer, module) of a parameter name; layers are counted from 1, in parameter names from 0.

    >>> place("encoder.layers.3.self_attn.q_proj.weight")
    (4, 'q_proj')
    """
    parts = name.split(".")
    return next((int(part) + 1 for part in parts if part.isdigit()), None), parts[-2]


def _iou(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterable[str]) -> float:
    shared = union = 0
    for name in names:
        shared += int((a[name] & b[name]).sum())
        union += int((a[name] | b[name]).sum())
    return shared / union if union else 1.0
