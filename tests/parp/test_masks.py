"""Masks: the right number of zeros, the smallest weights, as torch's own pruning chooses them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_encoder, tiny_config
from torch import nn
from torch.nn.utils import prune

from pruned_upstream.errors import ConfigError
from pruned_upstream.parp.masks import (
    full_masks,
    magnitude_masks,
    overlap,
    place,
    prunable_weights,
    random_masks,
    sparsity_of,
    zeros,
)
from pruned_upstream.parp.rounds import MODULES


def living(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(7, 5, generator=generator), "b": 3 * torch.randn(4, 6, generator=generator)}


def test_what_is_pruned_are_the_matrices_of_the_transformer(tiny) -> None:
    weights = prunable_weights(tiny, MODULES)
    assert len(weights) == 6 * 3
    assert all(name.startswith("encoder.layers.") for name in weights)
    assert sum(weight.numel() for weight in weights.values()) == 3 * (4 * 24 * 24 + 2 * 24 * 40)
    named = dict(tiny.named_parameters())
    assert all(named[name] is weight for name, weight in weights.items())
    with pytest.raises(ConfigError, match="called query; check parp.modules"):
        prunable_weights(tiny, ["fc1", "query"])


@pytest.mark.parametrize("sparsity", [0.1, 0.333, 0.5, 0.9])
def test_global_masks_are_those_of_torch(sparsity: float) -> None:
    ours, theirs = random_encoder(tiny_config()), random_encoder(tiny_config())
    masks = magnitude_masks(prunable_weights(ours, MODULES), sparsity)
    parts = dict(theirs.named_modules())
    pruned = [(parts[name.rpartition(".")[0]], "weight") for name in masks]
    count = zeros(sparsity, sum(mask.numel() for mask in masks.values()))
    prune.global_unstructured(pruned, pruning_method=prune.L1Unstructured, amount=count)
    for (part, _), mask in zip(pruned, masks.values(), strict=True):
        assert torch.equal(part.weight_mask.bool(), mask)


def test_masks_of_each_matrix_are_those_of_torch(weights) -> None:
    masks = magnitude_masks(weights, 0.4, "matrix")
    for name, weight in weights.items():
        layer = nn.Linear(weight.size(1), weight.size(0))
        layer.weight.data.copy_(weight)
        prune.l1_unstructured(layer, "weight", amount=zeros(0.4, weight.numel()))
        assert torch.equal(layer.weight_mask.bool(), masks[name])
    assert magnitude_masks(weights, 0.4)["a"].sum() < masks["a"].sum()  # all together, small matrices lose more


@given(st.integers(0, 59), st.sampled_from(["global", "matrix"]), st.booleans(), st.integers(0, 9))
def test_exact_to_one_weight_whatever_ties_there_are(count: int, scope: str, at_random: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randint(-2, 3, (5, 6), generator=generator).float() for name in ("a", "b")}
    sparsity = count / 60
    masks = (
        random_masks(weights, sparsity, scope, seed=seed) if at_random else magnitude_masks(weights, sparsity, scope)
    )
    if scope == "global":
        assert living(masks) == 60 - count
    else:
        assert all(mask.sum() == 30 - zeros(sparsity, 30) for mask in masks.values())
    if not at_random and scope == "global" and count > 0:
        gone = torch.cat([weights[name][~mask].abs() for name, mask in masks.items()])
        left = torch.cat([weights[name][mask].abs() for name, mask in masks.items()])
        assert gone.max() <= left.min()


def test_random_masks_follow_from_the_seed(weights) -> None:
    a, again, other = (random_masks(weights, 0.5, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], again[name]) for name in a)
    assert not all(torch.equal(a[name], other[name]) for name in a)


def test_sparsity_counts_weights(weights) -> None:
    assert sparsity_of(full_masks(weights)) == 0.0
    assert sparsity_of(magnitude_masks(weights, 0.5)) == zeros(0.5, 59) / 59


def test_overlap_by_hand() -> None:
    a = {
        "layers.0.fc1.weight": torch.tensor([[True, True], [False, False]]),
        "layers.1.fc2.weight": torch.ones(1, 2) > 0,
    }
    b = {
        "layers.0.fc1.weight": torch.tensor([[True, False], [True, False]]),
        "layers.1.fc2.weight": torch.ones(1, 2) > 0,
    }
    found = overlap(a, b)
    assert found.matrices == {"layers.0.fc1.weight": 1 / 3, "layers.1.fc2.weight": 1.0}
    assert found.layers == {1: 1 / 3, 2: 1.0}
    assert found.kinds == {"fc1": 1 / 3, "fc2": 1.0}
    assert found.whole == 3 / 5
    alive = 4 / 6
    assert found.chance == pytest.approx(alive**2 / (2 * alive - alive**2))


def test_random_masks_overlap_as_chance_says() -> None:
    weights = {"layers.0.fc1.weight": torch.zeros(300, 300)}
    found = overlap(random_masks(weights, 0.7, seed=0), random_masks(weights, 0.7, seed=1))
    assert found.chance == pytest.approx(0.3 / 1.7)
    assert found.whole == pytest.approx(found.chance, abs=0.01)


def test_masks_of_other_networks_are_not_compared(weights) -> None:
    with pytest.raises(ConfigError, match="other shapes"):
        overlap(full_masks(weights), {"a": torch.ones(7, 5) > 0})


def test_places() -> None:
    assert place("encoder.layers.3.self_attn.q_proj.weight") == (4, "q_proj")
    assert place("classifier.weight") == (None, "classifier")
