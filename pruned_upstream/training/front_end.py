"""A light front end in place of the convolutions, before a student learns anything else.

The convolutions that all published models share take most of a compact model's time. `front_end: light` in a recipe
puts four strided ones there, with a twentieth of their multiply-accumulates and the same frames (`light_front_end` in
model/config.py), and this stage teaches them, with the norm and the projection behind them, what the teacher's
projected features are. The student of the recipe's method then starts from the result, and all of it goes on learning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..distillation.losses import mse
from ..model.checkpoint import assemble, save
from ..model.config import light_front_end
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..parsing import require, require_one_of
from .data import Batch, batches_to_teach, noise_seed
from .fingerprints import OF_TEACHER, encoder_fingerprint
from .loop import Trainer
from .objectives import DistillationObjective, Encoded
from .processes import Processes
from .provenance import provenance

FRONT_ENDS = ("full", "light")
FOLDER, MODEL_FILE = "front_end", "front_end.safetensors"
FRONT_END = 3  # sets the batches of this stage apart from those of the others


@dataclass
class FrontEndStage:
    """The light front end learns its teacher's projected features; with a full one there is no such stage."""

    steps: int = 20000  # updates of this stage
    learning_rate: float = 1e-3  # peak
    warmup: float = 0.05  # share of these steps

    def check(self) -> None:
        """Raise ConfigError for steps, rates or shares out of range."""
        require(self.steps >= 1, "front_end_stage.steps", self.steps, "be at least 1")
        require(self.learning_rate > 0, "front_end_stage.learning_rate", self.learning_rate, "be above 0")
        require(0 <= self.warmup < 1, "front_end_stage.warmup", self.warmup, "be a share from 0 to below 1")


def check_front_end(kind: str) -> None:
    """Raises ConfigError for a front end that there is not."""
    require_one_of("front_end", kind, FRONT_ENDS)


def start_of(recipe: Any) -> str | Path:
    """What a recipe's student starts from: its teacher, or the teacher with the front end that this stage has left."""
    return recipe.teacher if recipe.front_end == "full" else Path(recipe.run.folder) / FOLDER / MODEL_FILE


def with_light_front_end(teacher: Encoder, dropout: Dropout = Dropout()) -> Encoder:
    """The teacher with new convolutions, drawn from torch's global RNG; all other weights are copies.

    Raises:
        ConfigError: the teacher's frames are not those of the published models.
    """
    student = Encoder(light_front_end(teacher.config), dropout)
    weights = dict(teacher.state_dict())
    for name in teacher.feature_extractor.state_dict():
        del weights[f"feature_extractor.{name}"]
    new = {f"feature_extractor.{name}": tensor for name, tensor in student.feature_extractor.state_dict().items()}
    return assemble(student.config, weights | new, source="the student with a light front end", dropout=dropout)


class FrontEndObjective(DistillationObjective):
    """The student's projected features approach the teacher's: mean squared error; nothing behind them is computed."""

    spread: Tensor  # of the step: squares of the teacher's features about the batch's mean, as `distillation` counts

    def __init__(self, teacher: Encoder, student: Encoder, options: Any, processes: Processes) -> None:
        super().__init__(teacher, student, options, processes)
        parts = {
            "feature_extractor": student.feature_extractor,
            "layer_norm": student.layer_norm,
            "projection": student.post_extract_proj,
        }
        self.modules = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def learned(self) -> Iterable[nn.Parameter]:
        """The light front end's parameters."""
        return self.modules.parameters()

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Forget the spread of the last step."""
        super().begin_step(step, parts)
        self.spread = self.processes.scalar(0.0)

    def distance(self, encoded: Encoded) -> Tensor:
        """Squared distance between both front ends' features, summed over valid frames: a scalar."""
        (ours,), (theirs,), valid = encoded
        with torch.no_grad():
            mean = theirs.masked_fill(~valid.unsqueeze(-1), 0.0).sum((0, 1)) / valid.sum()
            self.spread += mse(mean.expand_as(theirs), theirs, valid) / self.frames
        return mse(ours, theirs, valid)

    def end_step(self) -> None:
        """Add the spread up over all processes."""
        super().end_step()
        self.processes.sum_(self.spread)

    def metrics(self) -> dict[str, Tensor]:
        """Loss and residual: the share of the features' variance that is not explained."""
        return super().metrics() | {"residual": self.distillation / self.spread}

    def shown(self) -> Sequence[str]:
        """Loss and residual."""
        return ("loss", "residual")

    def _encode(self, part: Batch) -> Encoded:
        torch.manual_seed(part.seed)
        waveforms, lengths = self.student.prepare(part.wavs, pad_to=part.pad_to)
        waveforms, lengths = self.processes.to_device(waveforms), self.processes.to_device(lengths)
        with torch.no_grad():
            teacher = self.teacher.project(self.teacher.features(waveforms))
        student = self.student.project(self.student.features(waveforms))
        return Encoded([student], [teacher], ~self.student.padding_mask(lengths, waveforms.size(1)))


def distil_front_end(
    recipe: Any, processes: Processes, what_follows: Callable[..., object], *, amend: bool = False
) -> None:
    """Train a recipe's light front end, or go on where an earlier launch stopped; with a full one nothing happens.

    Args:
        recipe: with the keys `front_end` and `front_end_stage` beside those of every distillation.
        what_follows: builds the objective of the next stage, (recipe, processes, student) -> it, and refuses what does
            not fit the teacher: ahead of this stage, which takes days.
        amend: as `Trainer` takes it.

    Raises:
        ConfigError: the teacher's frames are not those of the published models, or `what_follows` says so.
    """
    if recipe.front_end == "full":
        return
    options, folder = recipe.front_end_stage, Path(recipe.run.folder)
    teacher = load_teacher(recipe.teacher)
    torch.manual_seed(recipe.run.seed)
    student = with_light_front_end(teacher, Dropout(**asdict(recipe.dropout)))
    what_follows(recipe, processes, copy.deepcopy(student))
    student.to(processes.device)
    stage = replace(
        recipe,
        optimisation=replace(recipe.optimisation, **asdict(options)),
        run=replace(recipe.run, folder=str(folder / FOLDER)),
    )
    objective = FrontEndObjective(teacher.to(processes.device), student, stage.optimisation, processes)
    seed, parts = noise_seed(recipe.run.seed, FRONT_END), recipe.optimisation.accumulation
    batches = batches_to_teach(objective, recipe.data, processes, folder, seed=seed, accumulation=parts)
    inputs = {OF_TEACHER: encoder_fingerprint(teacher)}
    Trainer(objective, batches, stage, processes, inputs=inputs, amend=amend).fit()
    with processes.main_first():
        if processes.is_main:
            source = provenance(recipe, teacher=recipe.teacher, method="distillation of the front end")
            save(folder / FOLDER / MODEL_FILE, student, provenance=source)
