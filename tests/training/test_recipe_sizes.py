"""How large each recipe's model is at WavLM Base: in closed form from its target, and as a search for it ends."""

from __future__ import annotations

import pytest
import torch

from pruned_upstream.distillation.student import shallow_config
from pruned_upstream.model.config import light_front_end, wavlm_base_config
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.compaction import compact_config
from pruned_upstream.pruning.cost import cost_of
from pruned_upstream.pruning.gates import Gates, gate_shapes
from pruned_upstream.pruning.scores import cut_by_scores
from pruned_upstream.pruning.sparsity import final_gates
from pruned_upstream.training.distill import DistillRecipe
from pruned_upstream.training.prune import PruneRecipe
from pruned_upstream.training.recipe import load_recipe

BASE = wavlm_base_config()
GIVEN = ["teacher=t", "data.train=s"]
SIZES = {  # millions
    "wavlm_base": 26.36,  # the paper: 26.57, and 26.37 without STE
    "wavlm_base_100h": 26.36,
    "no_fahp": 26.36,
    "no_ste": 26.36,
    "no_pairing": 26.36,
    "no_multi_scale": 26.36,
    "dphubert_style": 23.60,  # DPHuBERT and DPWavLM: 23.59
    "best": 23.60,
    "best_100h": 23.60,
    "gentle": 23.60,
    "one_shot": 26.36,
}


def closed_form(recipe: PruneRecipe) -> float:
    """Parameters that remain when the counted sparsity is the target."""
    share = cost_of(recipe.sparsity.scope).counted(BASE)
    return count_parameters(BASE) - recipe.sparsity.target * share


@pytest.mark.parametrize("name", SIZES)
def test_target_sizes(name: str) -> None:
    assert round(closed_form(load_recipe(name, PruneRecipe, GIVEN)) / 1e6, 2) == SIZES[name]


def test_the_shallow_student() -> None:
    recipe = load_recipe("distil_wavlm", DistillRecipe, GIVEN)
    assert count_parameters(shallow_config(BASE, recipe.student.layers)) == 23_497_128  # published: 23.49M


@pytest.mark.parametrize("seed", [0, 1])
def test_the_exact_recipe_meets_its_target_to_a_row(seed: int) -> None:
    recipe = load_recipe("gentle", PruneRecipe, GIVEN)
    assert recipe.sparsity.exact
    torch.manual_seed(seed)
    gates = Gates(BASE, recipe.gates)
    with torch.no_grad():
        for log_alpha in gates.log_alpha.values():
            log_alpha.normal_(mean=-1.0, std=1.5)
        for kind in ("attention", "feed_forward"):
            gates.log_alpha[kind].fill_(3.0)
    final = final_gates(gates, recipe.sparsity.target, recipe.sparsity.scope)
    remaining = count_parameters(compact_config(BASE, final))
    widest_row = 2 * 3 * 512 + 2  # a channel of the front end: its filter, and what reads it
    assert abs(remaining - closed_form(recipe)) <= widest_row


@pytest.mark.parametrize("name", ["best", "best_100h", "one_shot", "fast"])
def test_recipes_that_cut_by_scores_meet_their_size_to_a_row(name: str) -> None:
    recipe = load_recipe(name, PruneRecipe, GIVEN)
    assert recipe.optimisation.steps == 0
    dense = light_front_end(BASE) if recipe.front_end == "light" else BASE
    torch.manual_seed(0)
    shapes = gate_shapes(dense, recipe.gates)
    scores = {kind: torch.rand(s) for kind, s in shapes.items() if kind not in ("attention", "feed_forward")}
    cut = compact_config(dense, cut_by_scores(dense, scores, recipe.sparsity.target, recipe.sparsity.scope))
    row = 2 * 768 + 1 if recipe.gates.fine_grained else 4 * 64 * 768  # of a dimension, of a head
    before, after = (cost_of("transformer").counted(config) for config in (dense, cut))
    assert abs(after - (1 - recipe.sparsity.target) * before) <= row
