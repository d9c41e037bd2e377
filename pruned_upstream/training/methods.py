"""The ways to train, as a table: what a recipe of each looks like, what runs it, and where its model lies."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        name: of its command.
        section: of the recipe, which no other method has.
        base: the shipped recipe that others are variations of.
        schema, run: its recipe's class and the function that takes one, both in `module`.
        distillation: whether its metrics tell the distance from a teacher.
        sparsity: the recipe's key for it, where the method has one.
    """

    name: str
    section: str
    base: str
    module: str
    schema: str
    run: str
    distillation: bool = False
    sparsity: str | None = None

    @property
    def recipe_class(self) -> type:
        return getattr(self._module, self.schema)

    @property
    def run_recipe(self) -> Callable[[Any], Path]:
        """Trains as a recipe says, or goes on where it stopped; returns the model file."""
        return getattr(self._module, self.run)

    @property
    def model_file(self) -> str:
        return self._module.MODEL_FILE

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.module}")


METHODS = {
    method.name: method
    for method in (
        Method(
            "prune", "sparsity", "wavlm_base", "prune", "PruneRecipe", "run_prune",
            distillation=True, sparsity="sparsity.target",
        ),  # fmt: skip
        Method("distill", "student", "distil_wavlm", "distill", "DistillRecipe", "run_distill", distillation=True),
        Method("parp", "parp", "parp_10min", "finetune", "ParpRecipe", "run_parp", sparsity="parp.sparsity"),
        Method("pretrain", "masking", "demo_teacher", "pretrain", "PretrainRecipe", "run_pretrain"),
    )
}


def method_of(tree: Mapping[str, Any]) -> Method | None:
    """The method whose recipe this is, from the sections that it has; None for one that the table does not hold."""
    return next((method for method in METHODS.values() if method.section in tree), None)


def method_named(name: str) -> Method:
    """Raises ConfigError for a name that the table does not hold."""
    if name not in METHODS:
        raise ConfigError(f"there is no method '{name}'; known are {', '.join(METHODS)}")
    return METHODS[name]
