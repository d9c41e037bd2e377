"""Distillation into a shallow student, from a teacher to a model file (DistilHuBERT: Chang et al., ICASSP 2022).

With WavLM Base as its teacher the student is what the comparison tables call DistilWavLM. The student and what is
copied into it are `distillation/student.py`; what its heads are asked to predict is here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..distillation.losses import named_loss
from ..distillation.student import predictions, scale_gradient, shallow_student, third_layers, without_heads
from ..files import write_text
from ..model.checkpoint import save
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.size import count_parameters
from ..parsing import require
from .data import batches_to_teach
from .fingerprints import OF_TEACHER, encoder_fingerprint
from .front_end import FrontEndStage, check_front_end, distil_front_end, start_of
from .loop import Trainer
from .objectives import DistillationObjective, Encoded
from .processes import Processes, start_processes
from .provenance import REPORT_FILE, provenance
from .recipe import REQUIRED, Data, DropoutRates, Kind, Optimisation, Run, Streaming, key
from .reports import TrainingReport, training_facts

MODEL_FILE = "compact.safetensors"


@dataclass
class Student:
    """What is copied from the teacher."""

    layers: int = 2  # the first n, with all that lies before them
    feature_grad_mult: float = 0.1  # factor of the gradient that the convolutions learn by

    def check(self) -> None:
        """Raise ConfigError unless the student's shape makes sense."""
        mult = self.feature_grad_mult
        require(self.layers >= 1, "student.layers", self.layers, "be at least 1")
        require(0 < mult <= 1, "student.feature_grad_mult", mult, "be above 0 and at most 1")


@dataclass
class Prediction:
    """What the heads learn to predict from the student's last layer."""

    teacher_layers: list[int] | None = None  # counted from 1; the thirds of the depth by default
    loss: str = "l1_log_cosine"  # of a pair; or another of the table `LOSSES` (distillation/losses.py)
    keep_heads: bool = key(Kind.EVALUATION, False)  # in the model file; the hidden states are the same without


@dataclass
class DistillRecipe:
    """A shallow student of a teacher."""

    # published WavLM .pt, a transformers folder, or a model file of this package
    teacher: str = key(Kind.INPUT, REQUIRED)
    data: Data = field(default_factory=Data)
    student: Student = field(default_factory=Student)
    distillation: Prediction = field(default_factory=Prediction)
    streaming: Streaming = field(default_factory=Streaming)
    front_end: str = "full"  # the teacher's; or "light", see training/front_end.py
    front_end_stage: FrontEndStage = field(default_factory=FrontEndStage)
    dropout: DropoutRates = key(Kind.AMENDABLE, DropoutRates)
    optimisation: Optimisation = key(Kind.AMENDABLE, Optimisation)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_front_end(self.front_end)


class PredictionObjective(DistillationObjective):
    """Each head of the student predicts one layer of the teacher; the mean of their losses is learned from.

    The mean over heads is that of the public code (s3prl, pretrain/distiller/pretrain_expert.py, `compute_loss`), which
    counts padded frames too; here only valid ones count.

    Args:
        student: with as many prediction heads as there are `teacher_layers`.

    Raises:
        ConfigError: an unknown loss.
    """

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        teacher_layers: Sequence[int],
        recipe: DistillRecipe,
        processes: Processes = Processes(),
    ) -> None:
        super().__init__(teacher, student, recipe.optimisation, processes)
        self.teacher_layers = list(teacher_layers)
        self.head_loss = named_loss(recipe.distillation.loss)
        scale_gradient(student.feature_extractor, recipe.student.feature_grad_mult)

    def distance(self, encoded: Encoded) -> Tensor:
        """L1 and cosine between each head's prediction and its teacher layer, summed over valid frames: a scalar."""
        targets = [encoded.teacher[k] for k in self.teacher_layers]
        pairs = zip(predictions(self.student, encoded.student[-1]), targets, strict=True)
        return torch.stack([self.head_loss(ours, target, encoded.weights) for ours, target in pairs]).mean()


@dataclass(frozen=True, kw_only=True)
class DistillReport(TrainingReport):
    """What came out; `predicted_layers` are the teacher's that the heads learned to predict."""

    teacher_parameters: int
    parameters: int
    layers: int
    predicted_layers: list[int]
    heads_kept: bool


def run_distill(recipe: DistillRecipe, *, amend: bool = False) -> Path:
    """Distil a teacher as the recipe says, going on where an earlier launch stopped.

    Args:
        amend: go on although amendable keys (`recipe.Kind`) differ from those that the run was begun with.

    Returns:
        The student's model file. Beside it lie a report, the resolved recipe, metrics and the training state.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`; no half-written model stays.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    with start_processes(recipe.run.device) as processes, processes.alone_in(Path(recipe.run.folder)) as folder:
        distil_front_end(recipe, processes, build_objective, amend=amend)
        objective = build_objective(recipe, processes)
        student = objective.student
        seed, parts = recipe.run.seed, recipe.optimisation.accumulation
        batches = batches_to_teach(objective, recipe.data, processes, folder, seed=seed, accumulation=parts)
        inputs = {OF_TEACHER: encoder_fingerprint(objective.teacher)}
        trainer = Trainer(objective, batches, recipe, processes, inputs=inputs, amend=amend)
        trainer.fit()
        if processes.is_main:
            kept = recipe.distillation.keep_heads
            model = student if kept else without_heads(student)
            report = DistillReport(
                **training_facts(batches.corpus, [trainer], steps=recipe.optimisation.steps),
                teacher_parameters=count_parameters(objective.teacher.config),
                parameters=count_parameters(model.config),
                layers=model.config.num_layers,
                predicted_layers=objective.teacher_layers,
                heads_kept=kept,
            )
            source = provenance(recipe, report.amendments, teacher=recipe.teacher, method="distillation")
            save(folder / MODEL_FILE, model, provenance=source)
            write_text(folder / REPORT_FILE, json.dumps(asdict(report), indent=1))  # last: then the run is finished
    return folder / MODEL_FILE


def build_objective(
    recipe: DistillRecipe, processes: Processes = Processes(), start: Encoder | None = None
) -> PredictionObjective:
    """Teacher and student as a recipe describes them, the heads initialised from its seed.

    Args:
        start: what the student's layers are copied from; by default the teacher, or what it says of a light front end.

    Raises:
        ConfigError: the teacher has not the layers that the recipe names.
    """
    teacher = load_teacher(recipe.teacher)
    depth = teacher.config.num_layers
    layers = recipe.distillation.teacher_layers
    layers = third_layers(depth) if layers is None else layers
    rising = layers and layers == sorted(set(layers)) and 1 <= layers[0] <= layers[-1] <= depth
    require(bool(rising), "distillation.teacher_layers", layers, f"name rising layers from 1 to {depth}")
    torch.manual_seed(recipe.run.seed)
    if start is None:
        start = teacher if recipe.front_end == "full" else load_teacher(start_of(recipe))
    student = shallow_student(start, recipe.student.layers, len(layers), Dropout(**asdict(recipe.dropout)))
    student = recipe.streaming.of(student)
    for module in (teacher, student):
        module.to(processes.device)
    return PredictionObjective(teacher, student, layers, recipe, processes)
