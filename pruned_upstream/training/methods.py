"""The ways to train, as a table: what a recipe of each looks like, what runs it, and where its model lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import distill, parp, pretrain, prune


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        name: of its command.
        section: of the recipe, which no other method has.
        base: the shipped recipe that others are variations of.
        recipe_class: what its recipes are read into.
        run_recipe: trains as a recipe says, or goes on where it stopped; takes `amend=`, returns the model file.
        model_file: name of that file in the run's folder.
        distillation: whether its metrics tell the distance from a teacher.
        sparsity: the recipe's key for it, where the method has one.
    """

    name: str
    section: str
    base: str
    recipe_class: type[Any]
    run_recipe: Callable[..., Path]
    model_file: str
    distillation: bool = False
    sparsity: str | None = None


METHODS = {
    method.name: method
    for method in (
        Method(
            "prune", "sparsity", "wavlm_base", prune.PruneRecipe, prune.run_prune, prune.MODEL_FILE,
            distillation=True, sparsity="sparsity.target",
        ),
        Method(
            "distill", "student", "distil_wavlm", distill.DistillRecipe, distill.run_distill, distill.MODEL_FILE,
            distillation=True,
        ),
        Method(
            "parp", "parp", "parp_10min", parp.ParpRecipe, parp.run_parp, parp.MODEL_FILE, sparsity="parp.sparsity"
        ),
        Method(
            "pretrain", "masking", "demo_teacher", pretrain.PretrainRecipe, pretrain.run_pretrain, pretrain.MODEL_FILE
        ),
    )
}  # fmt: skip


def method_of(tree: Mapping[str, Any]) -> Method | None:
    """The method whose recipe this is, from the sections that it has; None for one that the table does not hold."""
    return next((method for method in METHODS.values() if method.section in tree), None)


def method_named(name: str) -> Method:
    """Raises ConfigError for a name that the table does not hold."""
    if name not in METHODS:
        raise ConfigError(f"there is no method '{name}'; known are {', '.join(METHODS)}")
    return METHODS[name]
