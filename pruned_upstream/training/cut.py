"""The cut: what the gates have closed goes, and what is left is checked against the gated student before it is written.

Without a step of the first stage, scores of the dimensions say what goes.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ..errors import DataError
from ..files import write_text
from ..model.checkpoint import read_header, save
from ..model.encoder import Encoder
from ..model.size import count_parameters
from ..pruning.compaction import compact, verify
from ..pruning.principal_axes import turn_heads
from ..pruning.scores import cut_by_scores, dimension_scores
from ..pruning.sparsity import counted_sparsity, expected_sparsity, final_gates
from .data import Batches
from .fingerprints import OF_TEACHER, TEACHER
from .gated_stage import PruningObjective
from .loop import Trainer
from .provenance import REPORT_FILE, provenance, read_report
from .recipe import recipe_yaml
from .repairing import calibration, repair_facts, repaired
from .reports import TrainingReport, training_facts

if TYPE_CHECKING:
    from .prune import PruneRecipe

log = logging.getLogger(__name__)

FIRST_STAGE_FILE = "first_stage.safetensors"
VERIFIED_STEPS = 2  # batches on which gated and compact model are compared,
VERIFIED_RECORDINGS = 4  # by at most so many recordings of each
TOO_DENSE = "more steps, or a higher optimisation.gate_learning_rate, bring them there"
# the multipliers grow for as long as the gates are on their way, and take as long to shrink again
TOO_SPARSE = "more steps bring them back, or try another optimisation.multiplier_learning_rate"
SCOPE_NAMES = {
    "transformer": "attention and feed-forward",
    "everything": "the whole encoder",
    "macs": "the multiply-accumulates",
    "latency": "the time",
}


@dataclass(frozen=True, kw_only=True)
class PruneReport(TrainingReport):
    """What came out: sparsity as the gates expect it and as counted in the file, and what the file costs.

    missed: why the model must not pass for one of the target's size, where it misses it by more than `tolerance`.
    difference_from_gated: largest difference of hidden states between the gated student and what was cut from it, over
        their largest magnitude; from before the second stage, if there was one.
    second_stage: its steps, and the distillation loss of the run's first batch before and after, as `loss_before` and
        `loss_after`; None without it.
    repairs: of each repair, its place, what it says of the distance to the teacher's layers `before` and `after` it on
        the speech that it was fitted to, as a share of their variance, and how many `frames` those were.
    """

    target_sparsity: float
    expected_sparsity: float
    counted_sparsity: float
    tolerance: float
    missed: str | None
    scope: str
    teacher_parameters: int
    parameters: int
    difference_from_gated: float
    second_stage: dict[str, float] | None = None
    repairs: dict[str, dict[str, float]] = field(default_factory=dict)


def cut(trainer: Trainer, recipe: PruneRecipe, target: float, path: Path) -> None:
    """Fold, cut, compare on real batches, repair, and write; the trainer's student stays as it is and can go on.

    The comparison is on the CPU: it is exact there, whatever trained.
    """
    objective, batches, sparsity = cast(PruningObjective, trainer.objective), trainer.batches, recipe.sparsity
    device, cost = objective.processes.device, objective.cost
    student = copy.deepcopy(objective.student).cpu().eval()
    gates = copy.deepcopy(objective.gates).cpu().eval()
    config, is_learned = student.config, recipe.optimisation.steps > 0
    if is_learned:
        final = final_gates(gates, target if sparsity.exact else None, cost)
    else:
        heard = list(calibration(student, batches, recipe.repair.seconds))
        if recipe.gates.principal_axes:
            student = turn_heads(student, heard)
        final = cut_by_scores(config, dimension_scores(student, heard, recipe.gates), target, cost)
    smaller = compact(student, final)
    difference = verify(student, final, smaller, _verification_batches(student, batches))
    counted = counted_sparsity(config.densified(), smaller.config, cost)
    expected = expected_sparsity(config, gates.probabilities(), cost).item() if is_learned else counted
    report = PruneReport(
        **training_facts(batches.corpus, [trainer], steps=trainer.done),
        target_sparsity=target,
        expected_sparsity=expected,
        counted_sparsity=counted,
        tolerance=sparsity.tolerance,
        missed=_miss(counted, target, recipe),
        scope=sparsity.scope,
        teacher_parameters=count_parameters(objective.teacher.config),
        parameters=count_parameters(smaller.config),
        difference_from_gated=difference,
    )
    method = "pruning" if is_learned else "pruning by scores"
    if recipe.repair.after_cut:
        found = repaired(objective.teacher, smaller.to(device), batches, recipe.repair)
        report.repairs["after_cut"] = repair_facts(found)
        smaller, method = found.encoder.cpu(), f"{method}, then repair"
    save(path, smaller, provenance=made_by(recipe, method, asdict(report), trainer.inputs))
    write_report(path.parent, asdict(report))  # last: a run with its report is finished
    if report.missed:
        log.warning("%s; %s", report.missed, TOO_SPARSE if counted > target else TOO_DENSE)


def is_made(path: Path, recipe: PruneRecipe, steps: int) -> bool:
    """Whether an earlier launch of this run has come so far: what it fitted in closed form is not fitted again.

    Args:
        steps: of the first stage, after which the model of `path` was cut.
    """
    if not path.is_file() or read_header(path).provenance.get("recipe") != recipe_yaml(recipe):
        return False
    try:
        report = read_report(path.parent)  # written after the model
    except DataError:
        return False
    whole = path.name == FIRST_STAGE_FILE or bool(report.get("second_stage")) == bool(recipe.second_stage.steps)
    return whole and report.get("steps") == steps


def made_by(recipe: PruneRecipe, method: str, report: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """What the model file says of its making, and that it missed its target; `inputs` as `Trainer` has them."""
    missed = {"missed": report["missed"]} if report["missed"] else {}
    of_teacher = {"teacher": recipe.teacher, TEACHER: inputs[OF_TEACHER]}
    return provenance(recipe, report["amendments"], method=method, **of_teacher, **missed)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, the last file of a run: its being there says that the run is done."""
    write_text(folder / REPORT_FILE, json.dumps(report, indent=1))


def _miss(counted: float, target: float, recipe: PruneRecipe) -> str | None:
    """What is to be said of a model that is further from its target than the recipe tolerates; None of any other."""
    sparsity = recipe.sparsity
    if abs(counted - target) <= sparsity.tolerance:
        return None
    return (
        f"target missed: {counted:.1%} of {SCOPE_NAMES[sparsity.scope]} was pruned where {target:.1%} was the "
        f"target, more than {sparsity.tolerance:.1%} away"
    )


def _verification_batches(student: Encoder, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(VERIFIED_STEPS):
        for part in batches[step]:
            if part.wavs:
                yield student.prepare(part.wavs[:VERIFIED_RECORDINGS], pad_to=part.pad_to)
