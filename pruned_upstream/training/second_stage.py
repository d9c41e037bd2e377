"""The second stage: no gates, no price; the compact model goes on learning in its shape.

Of DPHuBERT (Peng et al., Interspeech 2023); the paper that the first stage is of has none.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ..model.checkpoint import load, read_header, save
from ..model.encoder import Dropout
from ..parsing import require
from .cut import is_made, made_by, write_report
from .data import Batch, Batches, noise_seed
from .fingerprints import encoder_fingerprint
from .gated_stage import PruningObjective
from .loop import Trainer
from .objectives import PairedDistillation
from .provenance import read_report
from .repairing import repair_facts, repaired
from .reports import training_facts
from .state import CUT_BEFORE

if TYPE_CHECKING:
    from .prune import PruneRecipe

FOLDER = "second_stage"
SECOND_STAGE = 2  # sets its batches apart from those of the first


@dataclass
class SecondStage:
    """Distillation of the compact model, its shape fixed, after the pruning."""

    steps: int = 0  # none
    learning_rate: float = 1e-4  # peak
    warmup: float = 0.2  # share of these steps

    def check(self) -> None:
        """Raise ConfigError for steps or rates out of range."""
        require(self.steps >= 0, "second_stage.steps", self.steps, "be at least 0")
        require(self.learning_rate > 0, "second_stage.learning_rate", self.learning_rate, "be above 0")
        require(0 <= self.warmup < 1, "second_stage.warmup", self.warmup, "be a share from 0 to below 1")


def distil_further(start: Path, out: Path, first: Trainer, recipe: PruneRecipe, *, steps: int, amend: bool) -> None:
    """Train what was cut, from where the first stage left its weights and the layer maps; then repair it, and write.

    It is a run of its own in a folder of its own, so that an interruption in it resumes in it.

    Args:
        start: the compact model of the first stage.
        out: the compact model of this.
        first: the first stage, of whose recordings the second draws other batches. It may go on after this.
        steps: of the first stage, after which `start` was cut.
    """
    options, batches, processes = recipe.second_stage, first.batches, first.processes
    stage = replace(
        recipe,
        optimisation=replace(recipe.optimisation, **asdict(options)),
        run=replace(recipe.run, folder=str(start.parent / FOLDER)),
    )
    student = load(start, dropout=Dropout(**asdict(recipe.dropout))).to(processes.device)
    inputs = {**first.inputs, CUT_BEFORE: encoder_fingerprint(student)}
    pruning = cast(PruningObjective, first.objective)
    maps = copy.deepcopy(pruning.pairing)
    objective = PairedDistillation(
        pruning.teacher, student, maps, stage.optimisation, processes, by_utterance=pruning.by_utterance
    )
    before = loss_of(objective, batches[0])
    seed = noise_seed(recipe.run.seed, SECOND_STAGE)
    others = Batches(
        batches.corpus, recipe.data, seed=seed, accumulation=recipe.optimisation.accumulation, window=batches.window
    )
    trainer = Trainer(objective, others, stage, processes, inputs=inputs, amend=amend)
    trainer.fit()
    after = loss_of(objective, batches[0])
    with processes.main_first():
        if processes.is_main and not is_made(out, recipe, steps):
            report = read_report(start.parent)
            report |= training_facts(batches.corpus, [first, trainer], steps=steps)
            report["second_stage"] = {"steps": options.steps, "loss_before": before, "loss_after": after}
            method = read_header(start).provenance["method"] + ", then distillation"
            if recipe.repair.after_second_stage:
                found = repaired(pruning.teacher, student, batches, recipe.repair)
                report["repairs"]["after_second_stage"] = repair_facts(found)
                student, method = found.encoder, f"{method}, then repair"
            save(out, student, provenance=made_by(recipe, method, report, inputs))
            write_report(out.parent, report)


@torch.no_grad()
def loss_of(objective: PairedDistillation, parts: Sequence[Batch]) -> float:
    """The distillation loss on a batch, in eval mode."""
    objective.student.eval()
    objective.begin_step(0, parts)
    for part in parts:
        if part.wavs:
            objective.loss(part)
    objective.end_step()
    objective.student.train()
    return objective.distillation.item()
