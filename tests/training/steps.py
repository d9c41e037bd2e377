"""A trainer of each method over the same tiny teacher and recordings, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_encoder
from training.conftest import in_sections

from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.parp.masks import prunable_weights
from pruned_upstream.parp.rounds import MODULES, Pruner, rounds_of
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.training import distill, prune
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.objectives import PairedDistillation
from pruned_upstream.training.parp import CtcObjective, ParpRecipe, Recogniser
from pruned_upstream.training.pretrain import MaskedPrediction, PretrainRecipe
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.recipe import resolve_recipe
from pruned_upstream.training.units import Targets


class Steps:
    """Trainers of a teacher of shape `config`.

    Args:
        recipe: the fixture.
        changes: of every recipe, "section.key": value.
    """

    def __init__(
        self, config: EncoderConfig, recipe: Callable[..., prune.PruneRecipe], folder: Path, **changes: Any
    ) -> None:
        self.config = config
        self.teacher = folder / "family.safetensors"
        save(self.teacher, random_encoder(config))
        self.recipe = recipe(**{"teacher": str(self.teacher)} | changes)

    def trainer(self, method: str, device: torch.device) -> Trainer:
        processes = Processes(device=device)
        objective, recipe = getattr(self, method)(processes)
        corpus = find_corpus(recipe.data.train, min_samples=self.config.receptive_field)
        batches = Batches(corpus, recipe.data, seed=0, accumulation=recipe.optimisation.accumulation)
        return Trainer(objective, batches, recipe, processes)

    def pruning(self, processes: Processes) -> tuple[Any, Any]:
        return prune.build_objective(self.recipe, processes), self.recipe

    def second_stage(self, processes: Processes) -> tuple[Any, Any]:
        first = prune.build_objective(self.recipe)
        student = compact(first.student, first.gates.deterministic(-2.0)).to(processes.device)
        teacher, pairing = first.teacher.to(processes.device), first.pairing.to(processes.device)
        return PairedDistillation(teacher, student, pairing, self.recipe.optimisation, processes), self.recipe

    def distillation(self, processes: Processes) -> tuple[Any, Any]:
        recipe = self._other(distill.DistillRecipe, {"student.layers": 2})
        return distill.build_objective(recipe, processes), recipe

    def parp(self, processes: Processes) -> tuple[Any, Any]:
        recipe = self._other(
            ParpRecipe, {"parp.every": 2, "masking.frames": 0.3, "masking.channel_span": 4, "masking.frame_span": 2}
        )
        recogniser = Recogniser(random_encoder(self.config), classes=5)
        recogniser.reset_head(0)
        recogniser.to(processes.device)
        weights = prunable_weights(recogniser.encoder, MODULES)
        pruner = Pruner(weights, rounds_of(recipe.parp)[0], steps=recipe.optimisation.steps, every=recipe.parp.every)
        pruner.start(pruner.first_masks(seed=0))
        return CtcObjective(recogniser, [[1, 2, 1]] * 20, pruner, recipe, processes), recipe

    def pretraining(self, processes: Processes) -> tuple[Any, Any]:
        pytest.importorskip("librosa")
        masking = {"masking.front_end_steps": 1, "masking.units": 3, "masking.span": 2, "masking.start": 0.3}
        recipe = self._other(PretrainRecipe, masking, without=("teacher",))
        speech = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
        targets = Targets.fit([speech], self.config, units=3, smoothing=3, seed=0)
        encoder: Encoder = random_encoder(self.config).to(processes.device)
        return MaskedPrediction(encoder, targets, None, recipe, processes), recipe

    def _other(self, schema: type, changes: dict[str, Any], without: tuple[str, ...] = ()) -> Any:
        """The pruning recipe's common sections as a recipe of another method."""
        shared = asdict(self.recipe)
        tree = {key: shared[key] for key in ("teacher", "data", "dropout", "run") if key not in without}
        kept = ("steps", "learning_rate", "accumulation", "precision")
        tree["optimisation"] = {key: shared["optimisation"][key] for key in kept}
        for section, keys in in_sections(changes).items():
            tree[section] = {**tree.get(section, {}), **keys}
        return resolve_recipe(tree, schema)


METHODS = ("pruning", "second_stage", "distillation", "parp", "pretraining")
