"""Structured pruning by distillation, from a teacher to a compact model file (Wang et al., Interspeech 2023).

gates           the student starts as the teacher; each step draws its gates, compares its layers with the
                teacher's and pays for being larger than the target
cut             gates are folded in, what they closed is cut away, and what is left is checked against the gated
                student. Without a single step, scores of the dimensions say what is cut (one shot)
repair          output matrices are refitted in closed form                                        } these three
second stage    the compact model, its shape fixed, goes on learning (DPHuBERT: Peng et al., 2023) } may be left
repair          once more, of what that has learned                                                } out
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..distillation.pairing import LayerPairing
from ..files import write_text
from ..model.checkpoint import load, read_header, save
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.gating import EncoderGates
from ..model.size import count_parameters
from ..pruning.compaction import compact, verify
from ..pruning.gates import CONV, SUBLAYER_KINDS, Gates, GateSample, GateSettings
from ..pruning.scores import cut_by_scores, dimension_scores, warm_start_
from ..pruning.sparsity import (
    PRICES,
    SCOPES,
    GentlePrice,
    Lagrangian,
    Price,
    TargetSparsity,
    counted_sparsity,
    expected_sparsity,
    final_gates,
)
from .corpus import HEADERS_FILE, find_corpus
from .data import Batch, Batches, noise_seed
from .fingerprints import encoder_fingerprint
from .front_end import FrontEndStage, check_front_end, distil_front_end, start_of
from .loop import ParameterGroup, Trainer
from .objectives import PairedDistillation
from .processes import Processes, start_processes
from .provenance import REPORT_FILE, provenance, record_launch
from .recipe import REQUIRED, Data, DropoutRates, Kind, Optimisation, Run, key, recipe_yaml, require
from .repairing import Repair, calibration, repair_facts, repaired
from .reports import TrainingReport, training_facts
from .schedules import AFTER_WARMUP

log = logging.getLogger(__name__)

MODEL_FILE = "compact.safetensors"
FIRST_STAGE_FILE = "first_stage.safetensors"
SECOND_STAGE_FOLDER = "second_stage"
VERIFIED_STEPS = 2  # batches on which gated and compact model are compared,
VERIFIED_RECORDINGS = 4  # by at most so many recordings of each
TOO_DENSE = "more steps, or a higher optimisation.gate_learning_rate, bring them there"
# the multipliers grow for as long as the gates are on their way, and take as long to shrink again
TOO_SPARSE = "more steps bring them back, or try another optimisation.multiplier_learning_rate"
SCOPE_NAMES = {"transformer": "attention and feed-forward", "everything": "the whole encoder"}
GATE_NOISE = 1  # sets the seeds of gates apart from those of micro-batches,
SECOND_STAGE = 2  # and the batches of the second stage from those of the first


@dataclass
class Distillation:
    """What the student learns from its teacher's layers; see `distillation.pairing.LayerPairing`."""

    teacher_layers: list[int] | None = None  # counted from 1; the quarters of the depth by default
    groups: list[Any] | None = None  # instead: layers in groups, each with a linear map of its own
    pairing: str = "v4"
    loss: str = "mse"
    average: str = "utterances"  # over each one's frames, then over them (equation 5); or all "frames" together

    def check(self) -> None:
        averages = ("frames", "utterances")
        require(self.average in averages, "distillation.average", self.average, f"be one of {', '.join(averages)}")
        lists = self.groups is None or all(isinstance(group, list) for group in self.groups)
        numbers = lists and all(isinstance(layer, int) for group in self.groups or () for layer in group)
        require(numbers, "distillation.groups", self.groups, "be null, or lists of layers such as [[0],[4,8,12]]")


@dataclass
class Sparsity:
    """The share of parameters that pruning removes."""

    target: float = key(Kind.AMENDABLE, REQUIRED)
    scope: str = "transformer"  # what it is a share of; or "everything"
    warmup: float = key(Kind.AMENDABLE, 0.07)  # share of the steps over which the target rises from 0
    price: str = "multipliers"  # of missing the target: ascended (equation 5); or "gentle", see pruning/sparsity.py
    strength: float = key(Kind.AMENDABLE, 0.3)  # of the gentle price, against what gates hear from distillation
    tolerance: float = key(Kind.EVALUATION, 0.02)  # a model that is further from the target has missed it
    may_miss: bool = key(Kind.EVALUATION, False)  # a run that misses it ends as any other; else with exit code 3
    # close as many gates at the end as meet the target to a row; else as many as the gates expect
    exact: bool = key(Kind.EVALUATION, False)

    def check(self) -> None:
        require(0 < self.target < 1, "sparsity.target", self.target, "lie between 0 and 1, both excluded")
        require(self.scope in SCOPES, "sparsity.scope", self.scope, f"be one of {', '.join(SCOPES)}")
        require(0 <= self.warmup < 1, "sparsity.warmup", self.warmup, "be a share from 0 to below 1")
        require(self.price in PRICES, "sparsity.price", self.price, f"be one of {', '.join(PRICES)}")
        require(self.strength > 0, "sparsity.strength", self.strength, "be above 0")
        require(self.tolerance > 0, "sparsity.tolerance", self.tolerance, "be above 0")


@dataclass
class PruneOptimisation(Optimisation):
    """Gates and multipliers have learning rates of their own; without a step, scores of dimensions take their place."""

    LEAST_STEPS: ClassVar[int] = 0

    gate_learning_rate: float = 0.02
    multiplier_learning_rate: float = 0.02
    gate_schedule: str = "constant"  # of both, after the warm-up; or "linear", to 0 at the last step

    def check(self) -> None:
        super().check()
        schedule, known = self.gate_schedule, ", ".join(AFTER_WARMUP)
        require(schedule in AFTER_WARMUP, "optimisation.gate_schedule", schedule, f"be one of {known}")
        for name in ("gate_learning_rate", "multiplier_learning_rate"):
            require(getattr(self, name) > 0, f"optimisation.{name}", getattr(self, name), "be above 0")


@dataclass
class SecondStage:
    """Distillation of the compact model, its shape fixed, after the pruning."""

    steps: int = 0  # none
    learning_rate: float = 1e-4  # peak
    warmup: float = 0.2  # share of these steps

    def check(self) -> None:
        require(self.steps >= 0, "second_stage.steps", self.steps, "be at least 0")
        require(self.learning_rate > 0, "second_stage.learning_rate", self.learning_rate, "be above 0")
        require(0 <= self.warmup < 1, "second_stage.warmup", self.warmup, "be a share from 0 to below 1")


@dataclass
class PruneRecipe:
    """Structured pruning of a teacher into a student of its own shape."""

    # published WavLM .pt, a transformers folder, or a model file of this package
    teacher: str = key(Kind.INPUT, REQUIRED)
    data: Data = field(default_factory=Data)
    gates: GateSettings = field(default_factory=GateSettings)
    sparsity: Sparsity = field(default_factory=Sparsity)
    distillation: Distillation = field(default_factory=Distillation)
    front_end: str = "full"  # the teacher's; or "light", see training/front_end.py
    front_end_stage: FrontEndStage = field(default_factory=FrontEndStage)
    dropout: DropoutRates = key(Kind.AMENDABLE, DropoutRates)
    optimisation: PruneOptimisation = key(Kind.AMENDABLE, PruneOptimisation)
    second_stage: SecondStage = key(Kind.AMENDABLE, SecondStage)
    repair: Repair = key(Kind.EVALUATION, Repair)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_front_end(self.front_end)


class PruningObjective(PairedDistillation):
    """Layer distillation with the price of size, equation 5. One draw of the gates serves all parts of a step, on all
    processes."""

    # of the step that is being done
    sample: GateSample
    expected: Tensor
    penalty: Tensor

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        gates: Gates,
        pairing: LayerPairing,
        recipe: PruneRecipe,
        processes: Processes = Processes(),
    ) -> None:
        by_utterance = recipe.distillation.average == "utterances"
        super().__init__(teacher, student, pairing, recipe.optimisation, processes, by_utterance=by_utterance)
        self.gates = gates
        gentle = recipe.sparsity.price == "gentle"
        self.price: Price = GentlePrice(recipe.sparsity.strength) if gentle else Lagrangian()
        self.price.to(processes.device)
        self.recipe = recipe
        steps = recipe.optimisation.steps
        self.target = TargetSparsity(recipe.sparsity.target, round(recipe.sparsity.warmup * steps))
        self.modules.update({"gates": gates, "lagrangian": self.price})
        self._means = gates.means()

    def parameter_groups(self) -> list[ParameterGroup]:
        options: PruneOptimisation = self.recipe.optimisation
        schedule = AFTER_WARMUP[options.gate_schedule](options.steps, options.warmup)
        return [
            *super().parameter_groups(),
            ParameterGroup(
                "gates", list(self.gates.parameters()), options.gate_learning_rate, schedule, replicated=True
            ),
            ParameterGroup(
                "multipliers",
                list(self.price.parameters()),
                options.multiplier_learning_rate,
                schedule,
                maximise=True,
                replicated=True,
            ),
        ]

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        generator = torch.Generator().manual_seed(noise_seed(self.recipe.run.seed, step, 0, GATE_NOISE))
        self.sample = self.gates.sample(generator)
        super().begin_step(step, parts)

    def end_step(self) -> None:
        super().end_step()
        self.sample.backward(self.processes.sum_)
        self.expected = expected_sparsity(self.gates.config, self.gates.probabilities(), self.recipe.sparsity.scope)
        self.penalty = self.price(self.expected, self.target(self.step), list(self.gates.parameters()))
        self.penalty.backward()

    def after_step(self) -> None:
        self.gates.clamp_()
        self._means = self.gates.means()

    def metrics(self) -> dict[str, Tensor]:
        scalars: dict[str, Any] = {
            "loss": self.distillation + self.penalty.detach(),
            "penalty": self.penalty.detach(),
            "sparsity": self.expected.detach(),
            "target": self.target(self.step),
            **self.price.multipliers(),
        }
        scalars |= {f"gate/{kind}": mean.mean() for kind, mean in self._means.items()}
        for kind, mean in self._means.items():
            if not kind.startswith(CONV):  # the others are stacked, all layers in one tensor
                layers = mean.flatten(1).mean(1) if mean.dim() > 1 else mean  # (L,)
                scalars |= {f"layer_gate/{kind}/{number}": value for number, value in enumerate(layers)}
        return super().metrics() | {name: self.processes.scalar(value) for name, value in scalars.items()}

    def shown(self) -> Sequence[str]:
        return ("distillation", "sparsity", "target")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._means = self.gates.means()

    def _gates(self) -> EncoderGates:
        return self.sample.gates

    def _alive(self) -> Tensor:
        """(L,) bool: layers of which a sublayer's gate is expected above one half; without such gates, all."""
        coarse = [self._means[kind] > 0.5 for kind in SUBLAYER_KINDS if kind in self._means]
        return torch.stack(coarse).any(0) if coarse else super()._alive()


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


def run_prune(recipe: PruneRecipe, *, amend: bool = False) -> Path:
    """Prune a teacher as the recipe says, going on where an earlier launch stopped.

    Args:
        amend: go on although amendable keys (`recipe.Kind`) differ from those that the run was begun with.

    Returns:
        The compact model file. Beside it lie a report, the resolved recipe, metrics and the training state.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`, before, during or after training; no half-written model stays.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    with start_processes(recipe.run.device) as processes, processes.alone_in(Path(recipe.run.folder)) as folder:
        distil_front_end(recipe, processes, amend=amend)
        objective = build_objective(recipe, processes)
        with processes.main_first():
            corpus = find_corpus(
                recipe.data.train,
                min_samples=objective.student.config.receptive_field,
                cache=folder / HEADERS_FILE,
            )
        batches = Batches(corpus, recipe.data, seed=recipe.run.seed, accumulation=recipe.optimisation.accumulation)
        if recipe.gates.warm_start:
            _start_warm(objective, batches, recipe)
        inputs = {"teacher weights": encoder_fingerprint(objective.teacher)}
        trainer = Trainer(objective, batches, recipe, processes, inputs=inputs, amend=amend)
        trainer.fit()
        two_stages = recipe.second_stage.steps > 0
        cut = folder / (FIRST_STAGE_FILE if two_stages else MODEL_FILE)
        with processes.main_first():
            if processes.is_main and not _is_made(cut, recipe):
                if not recipe.optimisation.steps:
                    record_launch(folder, recipe, done=0, world=processes.world, inputs=inputs)
                _export(objective, trainer, recipe, cut)
        if two_stages:
            _distil_further(cut, trainer, recipe, amend)
    return folder / MODEL_FILE


def _is_made(path: Path, recipe: PruneRecipe) -> bool:
    """Whether an earlier launch of this run has come so far: what it fitted in closed form is not fitted again."""
    if not path.is_file() or read_header(path).provenance.get("recipe") != recipe_yaml(recipe):
        return False
    try:
        report = json.loads((path.parent / REPORT_FILE).read_text(encoding="utf-8"))  # written after the model
    except (OSError, ValueError):
        return False
    whole = path.name == FIRST_STAGE_FILE or bool(report["second_stage"]) == bool(recipe.second_stage.steps)
    return whole and report["steps"] == recipe.optimisation.steps


def build_objective(recipe: PruneRecipe, processes: Processes = Processes()) -> PruningObjective:
    """Teacher, student, gates and layer map as a recipe describes them, initialised from its seed."""
    teacher = load_teacher(recipe.teacher)
    student = load_teacher(start_of(recipe), dropout=Dropout(**asdict(recipe.dropout)))
    config = student.config
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
    )
    for module in (teacher, student, gates, pairing):
        module.to(processes.device)
    return PruningObjective(teacher, student, gates, pairing, recipe, processes)


def _start_warm(objective: PruningObjective, batches: Batches, recipe: PruneRecipe) -> None:
    """Gates start in the order of their dimensions' scores, which the main process takes for all."""
    student, processes = objective.student, objective.processes
    kinds = {kind: gate for kind, gate in objective.gates.log_alpha.items() if kind not in SUBLAYER_KINDS}
    if processes.is_main:
        heard = calibration(student, batches, recipe.repair.seconds)
        scores = dimension_scores(student, heard, recipe.gates)
    else:
        scores = {kind: torch.zeros(gate.shape, dtype=torch.double) for kind, gate in kinds.items()}
    on_device = {kind: processes.sum_(scores[kind].to(processes.device)) for kind in kinds}
    warm_start_(objective.gates, on_device, recipe.gates.warm_start)


def _export(objective: PruningObjective, trainer: Trainer, recipe: PruneRecipe, path: Path) -> None:
    """Fold, cut, compare on real batches, repair, and write. The comparison is on the CPU: it is exact there, whatever
    trained."""
    sparsity, batches, device = recipe.sparsity, trainer.batches, objective.processes.device
    gates = _final_gates(objective, batches, recipe)
    student = objective.student.cpu().eval()
    smaller = compact(student, gates)
    difference = verify(student, gates, smaller, _verification_batches(student, batches))
    counted = counted_sparsity(student.config.densified(), smaller.config, sparsity.scope)
    is_learned = recipe.optimisation.steps > 0
    probabilities = objective.gates.cpu().probabilities()
    expected = expected_sparsity(student.config, probabilities, sparsity.scope).item() if is_learned else counted
    report = PruneReport(
        **training_facts(batches.corpus, [trainer], steps=recipe.optimisation.steps),
        target_sparsity=sparsity.target,
        expected_sparsity=expected,
        counted_sparsity=counted,
        tolerance=sparsity.tolerance,
        missed=_miss(counted, sparsity),
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
    save(path, smaller, provenance=_provenance(recipe, method, asdict(report)))
    _write_report(path.parent, asdict(report))  # last: a run with its report is finished
    if report.missed:
        log.warning("%s; %s", report.missed, TOO_SPARSE if counted > sparsity.target else TOO_DENSE)


def _final_gates(objective: PruningObjective, batches: Batches, recipe: PruneRecipe) -> EncoderGates:
    """What stays, on the CPU: what the gates have learned, or the best scores where they have learned nothing."""
    sparsity = recipe.sparsity
    if recipe.optimisation.steps:
        return final_gates(objective.gates.cpu(), sparsity.target if sparsity.exact else None, sparsity.scope)
    heard = calibration(objective.student, batches, recipe.repair.seconds)
    scores = dimension_scores(objective.student, heard, recipe.gates)
    return cut_by_scores(objective.student.config, scores, sparsity.target, scope=sparsity.scope)


def _miss(counted: float, sparsity: Sparsity) -> str | None:
    """What is to be said of a model that is further from its target than the recipe tolerates; None of any other."""
    if abs(counted - sparsity.target) <= sparsity.tolerance:
        return None
    return (
        f"target missed: {counted:.1%} of {SCOPE_NAMES[sparsity.scope]} was pruned where {sparsity.target:.1%} was the "
        f"target, more than {sparsity.tolerance:.1%} away"
    )


def _provenance(recipe: PruneRecipe, method: str, report: Mapping[str, Any]) -> dict[str, str]:
    """What the model file says of its making, and that it missed its target."""
    missed = {"missed": report["missed"]} if report["missed"] else {}
    return provenance(recipe, report["amendments"], teacher=recipe.teacher, method=method, **missed)


def _distil_further(start: Path, first: Trainer, recipe: PruneRecipe, amend: bool) -> None:
    """The second stage: no gates, no price, the layer maps go on from where the first stage left them.

    It is a run of its own in a folder of its own, so that an interruption in it resumes in it.

    Args:
        start: the compact model of the first stage.
        first: that stage, of whose recordings the second draws other batches.
    """
    options, batches, processes = recipe.second_stage, first.batches, first.processes
    rates = {"steps": options.steps, "learning_rate": options.learning_rate, "warmup": options.warmup}
    stage = replace(
        recipe,
        optimisation=replace(recipe.optimisation, **rates),
        run=replace(recipe.run, folder=str(start.parent / SECOND_STAGE_FOLDER)),
    )
    student = load(start, dropout=Dropout(**asdict(recipe.dropout))).to(processes.device)
    inputs = {**first.inputs, "first-stage weights": encoder_fingerprint(student)}
    pruning = cast(PruningObjective, first.objective)
    objective = PairedDistillation(
        pruning.teacher,
        student,
        pruning.pairing,
        stage.optimisation,
        processes,
        by_utterance=pruning.by_utterance,
    )
    before = _loss_of(objective, batches[0])
    seed = noise_seed(recipe.run.seed, SECOND_STAGE)
    others = Batches(batches.corpus, recipe.data, seed=seed, accumulation=recipe.optimisation.accumulation)
    trainer = Trainer(objective, others, stage, processes, inputs=inputs, amend=amend)
    trainer.fit()
    after = _loss_of(objective, batches[0])
    with processes.main_first():
        if processes.is_main and not _is_made(start.parent / MODEL_FILE, recipe):
            report = json.loads((start.parent / REPORT_FILE).read_text(encoding="utf-8"))
            report |= training_facts(batches.corpus, [first, trainer], steps=recipe.optimisation.steps)
            report["second_stage"] = {"steps": options.steps, "loss_before": before, "loss_after": after}
            method = read_header(start).provenance["method"] + ", then distillation"
            if recipe.repair.after_second_stage:
                found = repaired(pruning.teacher, student, batches, recipe.repair)
                report["repairs"]["after_second_stage"] = repair_facts(found)
                student, method = found.encoder, f"{method}, then repair"
            save(start.parent / MODEL_FILE, student, provenance=_provenance(recipe, method, report))
            _write_report(start.parent, report)


@torch.no_grad()
def _loss_of(objective: PairedDistillation, parts: Sequence[Batch]) -> float:
    """The distillation loss on a batch, in eval mode."""
    objective.student.eval()
    objective.begin_step(0, parts)
    for part in parts:
        if part.wavs:
            objective.loss(part)
    objective.end_step()
    objective.student.train()
    return objective.distillation.item()


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    write_text(folder / REPORT_FILE, json.dumps(report, indent=1))


def _verification_batches(student: Encoder, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(VERIFIED_STEPS):
        for part in batches[step]:
            if part.wavs:
                yield student.prepare(part.wavs[:VERIFIED_RECORDINGS], pad_to=part.pad_to)
