"""Structured pruning by distillation, from a teacher to a compact model file (Wang et al., Interspeech 2023).

gates           the student starts as the teacher; each step draws its gates, compares its layers with the
                teacher's and pays for being larger than the target
cut             gates are folded in, what they closed is cut away, and what is left is checked against the gated
                student. Without a single step, scores of the dimensions say what is cut (one shot)
repair          output matrices are refitted in closed form                                        } these three
second stage    the compact model, its shape fixed, goes on learning (DPHuBERT: Peng et al., 2023) } may be left
repair          once more, of what that has learned                                                } out

Several sizes come from one run (`sparsity.targets`): the target rises in plateaus, and at the end of each, what the
gates keep then takes the other stages, while the gates go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ..distillation.pairing import LayerPairing
from ..errors import ConfigError
from ..model.checkpoint import read_header
from ..model.config import EncoderConfig
from ..model.convert import is_safetensors, load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.hub import require_local
from ..parsing import require
from ..pruning.cost import Cost
from ..pruning.gates import Gates, GateSettings
from ..pruning.repair import check_pair
from ..pruning.sparsity import counted_sparsity, largest_sparsity, plateau_ends
from .cut import FIRST_STAGE_FILE, SCOPE_NAMES, PruneReport, cut, is_made
from .data import batches_to_teach
from .fingerprints import OF_TEACHER, check_own_teacher, encoder_fingerprint
from .front_end import FrontEndStage, check_front_end, distil_front_end, start_of
from .gated_stage import (
    Distillation,
    LatencySettings,
    PruneOptimisation,
    PruningObjective,
    Sparsity,
    cost_in,
    learn_from_clusters,
    start_warm,
    turn_to_principal_axes,
)
from .loop import Trainer
from .processes import Processes, start_processes
from .provenance import record_launch
from .recipe import REQUIRED, Data, DropoutRates, Kind, Run, Streaming, key
from .repairing import Repair
from .second_stage import FOLDER as SECOND_STAGE_FOLDER
from .second_stage import SecondStage, distil_further
from .state import STATE_FILE

__all__ = [
    "FIRST_STAGE_FILE",
    "MODEL_FILE",
    "SECOND_STAGE_FOLDER",
    "PruneRecipe",
    "PruneReport",
    "build_objective",
    "run_prune",
]

log = logging.getLogger(__name__)

MODEL_FILE = "compact.safetensors"
SIZE_FOLDER = "sparsity_{:g}"  # of each size but the last, whose files lie in the run's own folder


@dataclass
class PruneRecipe:
    """Structured pruning of a teacher into a student of its own shape."""

    # published WavLM .pt, a transformers folder, or a model file of this package
    teacher: str = key(Kind.INPUT, REQUIRED)
    start: str | None = key(Kind.INPUT, None)  # a compact file of it to go on from; the teacher itself by default
    data: Data = field(default_factory=Data)
    gates: GateSettings = field(default_factory=GateSettings)
    sparsity: Sparsity = field(default_factory=Sparsity)
    latency: LatencySettings = field(default_factory=LatencySettings)
    distillation: Distillation = field(default_factory=Distillation)
    streaming: Streaming = field(default_factory=Streaming)
    front_end: str = "full"  # the teacher's; or "light", see training/front_end.py
    front_end_stage: FrontEndStage = field(default_factory=FrontEndStage)
    dropout: DropoutRates = key(Kind.AMENDABLE, DropoutRates)
    optimisation: PruneOptimisation = key(Kind.AMENDABLE, PruneOptimisation)
    second_stage: SecondStage = key(Kind.AMENDABLE, SecondStage)
    repair: Repair = key(Kind.EVALUATION, Repair)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_front_end(self.front_end)
        if self.start is not None:
            require(self.front_end == "full", "front_end", self.front_end, "be full where start names a file")


def run_prune(recipe: PruneRecipe, *, amend: bool = False) -> Path:
    """Prune a teacher as the recipe says, going on where an earlier launch stopped.

    Args:
        amend: go on although amendable keys (`recipe.Kind`) differ from those that the run was begun with.

    Returns:
        The compact model file. Beside it lie a report, the resolved recipe, metrics and the training state; smaller
        targets' files lie in folders of their own.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`, before, during or after training; no half-written model stays.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    with start_processes(recipe.run.device) as processes, processes.alone_in(Path(recipe.run.folder)) as folder:
        distil_front_end(recipe, processes, build_objective, amend=amend)
        objective = build_objective(recipe, processes)
        seed, parts = recipe.run.seed, recipe.optimisation.accumulation
        batches = batches_to_teach(objective, recipe.data, processes, folder, seed=seed, accumulation=parts)
        if recipe.distillation.clusters is not None:
            learn_from_clusters(objective, batches, folder)
        inputs = {OF_TEACHER: encoder_fingerprint(objective.teacher)}
        if recipe.start is not None:
            inputs["weights to start from"] = encoder_fingerprint(objective.student)
        if recipe.optimisation.steps and not (folder / STATE_FILE).exists():  # else the state has what became of it
            if recipe.gates.principal_axes:
                turn_to_principal_axes(objective, batches)
            if recipe.gates.warm_start:
                start_warm(objective, batches)
        trainer = Trainer(objective, batches, recipe, processes, inputs=inputs, amend=amend)
        if processes.is_main and not recipe.optimisation.steps:
            record_launch(folder, recipe, done=0, world=processes.world, inputs=trainer.inputs)
        for size in sizes(recipe):
            if trainer.done <= size.steps:  # else an earlier launch has finished it, and gone on
                trainer.fit(until=size.steps)
                _finish(size, trainer, recipe, amend)
            elif processes.is_main and not (size.folder / MODEL_FILE).exists():
                log.warning(
                    "there is no model of %.1f%%: its share of the steps now ends with step %d, and step %d is done",
                    100 * size.target,
                    size.steps,
                    trainer.done,
                )
    return folder / MODEL_FILE


class Size(NamedTuple):
    """One of the models that come from a run: its target, the steps of the first stage up to it, and its folder."""

    target: float
    steps: int
    folder: Path


def sizes(recipe: PruneRecipe) -> Iterator[Size]:
    """In the order in which a run comes to them."""
    folder, targets = Path(recipe.run.folder), recipe.sparsity.all_targets
    for target, steps in zip(targets, plateau_ends(len(targets), recipe.optimisation.steps), strict=True):
        yield Size(target, steps, folder if target == targets[-1] else folder / SIZE_FOLDER.format(target))


def _finish(size: Size, trainer: Trainer, recipe: PruneRecipe, amend: bool) -> None:
    """What follows the gates, for one size."""
    model, processes = size.folder / MODEL_FILE, trainer.processes
    two_stages = recipe.second_stage.steps > 0
    first = size.folder / FIRST_STAGE_FILE if two_stages else model
    with processes.main_first():
        if processes.is_main and not is_made(first, recipe, size.steps):
            cut(trainer, recipe, size.target, first)
    if two_stages:
        distil_further(first, model, trainer, recipe, steps=size.steps, amend=amend)


def build_objective(
    recipe: PruneRecipe, processes: Processes = Processes(), student: Encoder | None = None
) -> PruningObjective:
    """Teacher, student, gates and layer map as a recipe describes them, initialised from its seed.

    Args:
        student: what it starts from; by default it is read.

    Raises:
        ConfigError: what the student starts from is smaller than the first target already, or has other layers; or no
            gates that the recipe asks for reach the last target.
    """
    teacher = load_teacher(recipe.teacher)
    if student is None:
        student = load_teacher(recipe.start or start_of(recipe), dropout=Dropout(**asdict(recipe.dropout)))
    student = recipe.streaming.of(student)
    if recipe.start is not None:
        _check_start(recipe.start, teacher, student)
    config = student.config
    cost = cost_in(recipe, config, processes)
    lost, least = counted_sparsity(config.densified(), config, cost), recipe.sparsity.all_targets[0]
    if lost >= least:
        raise ConfigError(
            f"sparsity asks for {least:.1%}, and what the student starts from has lost {lost:.1%} already; "
            "ask for more, or start from a larger one"
        )
    _check_reach(recipe, config, cost)
    torch.manual_seed(recipe.run.seed)
    gates = Gates(config, recipe.gates)
    distillation = recipe.distillation
    pairing = LayerPairing(
        config.embed_dim,
        config.num_layers,
        teacher_layers=distillation.teacher_layers,
        groups=distillation.groups,
        variant=distillation.pairing,
        loss=distillation.loss,
        gram=distillation.gram,
    )
    for module in (teacher, student, gates, pairing):
        module.to(processes.device)
    return PruningObjective(teacher, student, gates, pairing, recipe, cost, processes)


def _check_reach(recipe: PruneRecipe, config: EncoderConfig, cost: Cost) -> None:
    sparsity = recipe.sparsity
    most = largest_sparsity(config, recipe.gates, cost)
    if sparsity.target - most > sparsity.tolerance and not sparsity.may_miss:
        raise ConfigError(
            f"sparsity.target asks for {sparsity.target:.1%} of {SCOPE_NAMES[sparsity.scope]}, and with all of these "
            f"gates closed {most:.1%} would be gone; ask for less, "
            + ("" if recipe.gates.conv else "let gates.conv=true prune the front end, too, ")
            + "or let sparsity.may_miss=true take what there is"
        )


def _check_start(path: str, teacher: Encoder, student: Encoder) -> None:
    ours, theirs = student.config, teacher.config
    if (ours.num_layers, ours.embed_dim) != (theirs.num_layers, theirs.embed_dim):
        raise ConfigError(
            f"start has {ours.num_layers} layers of {ours.embed_dim} dimensions and the teacher "
            f"{theirs.num_layers} of {theirs.embed_dim}; a student starts from its own teacher's file"
        )
    check_pair(teacher, student)
    file = require_local(path)
    if file.is_file() and is_safetensors(file):
        check_own_teacher(read_header(file).provenance, teacher)
