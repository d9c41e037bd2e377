"""The first stage: gates are learned, and layers with them, under a price of cost (Wang et al. 2023, equation 5)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..distillation.clusters import layer_clusters, layer_similarity
from ..distillation.pairing import LayerPairing
from ..errors import ConfigError
from ..files import write_text
from ..model.config import EncoderConfig
from ..model.encoder import Encoder
from ..model.gating import EncoderGates
from ..parsing import read_json, require, require_one_of
from ..pruning.cost import SCOPES, Cost, cost_of
from ..pruning.gates import CONV, SUBLAYER_KINDS, Gates, GateSample
from ..pruning.latency_table import Latency, LatencyTable, measure
from ..pruning.principal_axes import turn_heads
from ..pruning.scores import dimension_scores, warm_start_
from ..pruning.sparsity import PRICES, GentlePrice, Lagrangian, Plateaus, Price, expected_sparsity
from .data import Batch, Batches, noise_seed
from .loop import ParameterGroup
from .objectives import PairedDistillation
from .processes import Processes, device_named
from .recipe import REQUIRED, Kind, Optimisation, key
from .repairing import calibration
from .schedules import AFTER_WARMUP

if TYPE_CHECKING:
    from .prune import PruneRecipe

GATE_NOISE = 1  # sets the seeds of gates apart from those of micro-batches
LATENCY_FILE = "latency.json"
CLUSTERS_FILE = "clusters.json"
CLUSTERED_SECONDS = 120.0  # of speech, by which layers are compared


@dataclass
class Distillation:
    """What the student learns from its teacher's layers; see `distillation.pairing.LayerPairing`."""

    teacher_layers: list[int] | None = None  # counted from 1; the quarters of the depth by default
    groups: list[Any] | None = None  # instead: layers in groups, each with a linear map of its own
    pairing: str = "v4"  # how a teacher layer finds its student layer: v4, v3 or fixed (`LayerPairing`)
    loss: str = "mse"  # of a pair; or another of the table `LOSSES` (distillation/losses.py)
    gram: float = 0.0  # weight of the difference of temporal Gram matrices, beside it (STaRHuBERT)
    clusters: int | None = None  # instead of layers: so many clusters of similar ones, and their means (SKILL)
    average: str = "utterances"  # over each one's frames, then over them (equation 5); or all "frames" together

    def check(self) -> None:
        """Raise ConfigError for an unknown average or a weight below 0."""
        averages = ("frames", "utterances")
        require_one_of("distillation.average", self.average, averages)
        require(self.gram >= 0, "distillation.gram", self.gram, "be at least 0")
        if self.clusters is not None:
            require(self.clusters >= 1, "distillation.clusters", self.clusters, "be at least 1, or null")
            for name in ("teacher_layers", "groups"):
                named = getattr(self, name)
                require(named is None, f"distillation.{name}", named, "be null where distillation.clusters is given")
        lists = self.groups is None or all(isinstance(group, list) for group in self.groups)
        numbers = lists and all(isinstance(layer, int) for group in self.groups or () for layer in group)
        require(numbers, "distillation.groups", self.groups, "be null, or lists of layers such as [[0],[4,8,12]]")


@dataclass
class Sparsity:
    """The share that pruning removes."""

    target: float = key(Kind.AMENDABLE, REQUIRED)  # the share, above 0 and below 1
    # several sizes from one run: rising, the last of them the target; each is held for an equal share of the steps
    targets: list[float] | None = None
    scope: str = "transformer"  # what it is a share of: "transformer", "everything", "macs" or "latency" (cost.py)
    warmup: float = key(Kind.AMENDABLE, 0.07)  # share of the steps (of each target's) over which it rises; the paper's
    # of missing the target: "multipliers", which rise until it is met (equation 5); or "gentle", a share of what the
    # gates hear from distillation, so that they close slowly
    price: str = "multipliers"
    strength: float = key(Kind.AMENDABLE, 0.1)  # of the gentle price, against what gates hear from distillation
    tolerance: float = key(Kind.EVALUATION, 0.02)  # a model that is further from the target has missed it
    may_miss: bool = key(Kind.EVALUATION, False)  # a run that misses it ends as any other; else with exit code 3
    # close as many gates at the end as meet the target to a row; else as many as the gates expect
    exact: bool = key(Kind.EVALUATION, False)

    @property
    def all_targets(self) -> list[float]:
        """The targets of the run, in the order in which they are reached."""
        return self.targets or [self.target]

    def check(self) -> None:
        """Raise ConfigError for targets outside 0 to 1 or not rising, and for unknown scopes and prices."""
        require(0 < self.target < 1, "sparsity.target", self.target, "lie between 0 and 1, both excluded")
        targets = self.targets
        if targets is not None:
            rising = bool(targets) and targets == sorted(set(targets)) and targets[0] > 0 and targets[-1] == self.target
            require(
                rising, "sparsity.targets", targets, f"rise from above 0 to sparsity.target, which is {self.target}"
            )
        require_one_of("sparsity.scope", self.scope, SCOPES)
        require(0 <= self.warmup < 1, "sparsity.warmup", self.warmup, "be a share from 0 to below 1")
        require_one_of("sparsity.price", self.price, PRICES)
        require(self.strength > 0, "sparsity.strength", self.strength, "be above 0")
        require(self.tolerance > 0, "sparsity.tolerance", self.tolerance, "be above 0")


@dataclass
class LatencySettings:
    """Whose time it is that `sparsity.scope: latency` is a share of."""

    seconds: float = 10.0  # of the utterance
    device: str = "cpu"  # where the student is going to run
    # measured before on such a machine; by default it is measured at the start, into the run's folder
    table: str | None = key(Kind.INPUT, None)

    def check(self) -> None:
        """Raise ConfigError for a length out of range or an unknown device."""
        require(self.seconds > 0, "latency.seconds", self.seconds, "be above 0")
        known = re.fullmatch(r"cpu|cuda(:\d{1,2})?", self.device) is not None
        require(known, "latency.device", self.device, "be cpu, cuda or cuda:<number>")


@dataclass
class PruneOptimisation(Optimisation):
    """Gates and multipliers have learning rates of their own; without a step, scores of dimensions take their place."""

    LEAST_STEPS: ClassVar[int] = 0

    gate_learning_rate: float = 0.02  # of log_alpha
    multiplier_learning_rate: float = 0.02  # of the two multipliers of equation 5, which ascend
    gate_schedule: str = "constant"  # of both, after the warm-up; or "linear", to 0 at the last step

    def check(self) -> None:
        """Raise ConfigError for an unknown schedule of the gates, or rates out of range."""
        super().check()
        require_one_of("optimisation.gate_schedule", self.gate_schedule, AFTER_WARMUP)
        for name in ("gate_learning_rate", "multiplier_learning_rate"):
            require(getattr(self, name) > 0, f"optimisation.{name}", getattr(self, name), "be above 0")


def cost_in(recipe: PruneRecipe, config: EncoderConfig, processes: Processes) -> Cost:
    """What the recipe's sparsity is a share of, for an encoder of this shape; if need be, a table of times is measured
    first."""
    if recipe.sparsity.scope != "latency":
        return cost_of(recipe.sparsity.scope)
    options = recipe.latency
    path = Path(recipe.run.folder) / LATENCY_FILE if options.table is None else Path(options.table)
    with processes.main_first():
        if processes.is_main and options.table is None and not path.exists():
            device_named(options.device, key="latency.device")
            measure(config, seconds=options.seconds, device=options.device).save(path)
    table = LatencyTable.load(path)
    for name in ("seconds", "device"):
        there, here = getattr(table, name), getattr(options, name)
        if there != here:
            remedy = "name another table" if options.table else "remove it, it is measured anew"
            raise ConfigError(f"latency.{name} is {here}, and the times in {path} are of {there}; {remedy}")
    return Latency(table)


def learn_from_clusters(objective: PruningObjective, batches: Batches, folder: Path) -> None:
    """Find which layers of the teacher are similar, or take what an earlier launch has found."""
    path, processes, count = folder / CLUSTERS_FILE, objective.processes, objective.recipe.distillation.clusters
    with processes.main_first():
        if processes.is_main and not path.exists():
            heard = calibration(objective.teacher, batches, CLUSTERED_SECONDS)
            found = layer_clusters(layer_similarity(objective.teacher, heard), count or 0)
            write_text(path, json.dumps(found))
    try:
        clusters = read_json(path)
        known = range(objective.teacher.config.num_layers + 1)
        if not all(layers and all(layer in known for layer in layers) for layers in clusters):
            raise ValueError("it does not hold lists of layers")
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it, it is made anew") from error
    if len(clusters) > (count or 0):
        raise ConfigError(f"{path} holds {len(clusters)} clusters of layers; remove it, or name another run.folder")
    objective.pairing.use_clusters(clusters)


def turn_to_principal_axes(objective: PruningObjective, batches: Batches) -> None:
    """The student's heads are turned, the same function as before, by the main process for all."""
    student, processes = objective.student, objective.processes
    if processes.is_main:
        heard = calibration(student, batches, objective.recipe.repair.seconds)
        student.load_state_dict(turn_heads(student, heard).state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(processes.sum_(parameter * processes.is_main))


def start_warm(objective: PruningObjective, batches: Batches) -> None:
    """Gates start in the order of their dimensions' scores, which the main process takes for all."""
    recipe, student, processes = objective.recipe, objective.student, objective.processes
    kinds = {kind: gate for kind, gate in objective.gates.log_alpha.items() if kind not in SUBLAYER_KINDS}
    if processes.is_main:
        heard = calibration(student, batches, recipe.repair.seconds)
        scores = dimension_scores(student, heard, recipe.gates)
    else:
        scores = {kind: torch.zeros(gate.shape, dtype=torch.double) for kind, gate in kinds.items()}
    on_device = {kind: processes.sum_(scores[kind].to(processes.device)) for kind in kinds}
    warm_start_(objective.gates, on_device, recipe.gates.warm_start)


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
        cost: Cost,
        processes: Processes = Processes(),
    ) -> None:
        by_utterance = recipe.distillation.average == "utterances"
        super().__init__(teacher, student, pairing, recipe.optimisation, processes, by_utterance=by_utterance)
        self.gates = gates
        gentle = recipe.sparsity.price == "gentle"
        self.price: Price = GentlePrice(recipe.sparsity.strength) if gentle else Lagrangian()
        self.price.to(processes.device)
        self.recipe = recipe
        self.cost = cost
        self.target = Plateaus(recipe.sparsity.all_targets, recipe.optimisation.steps, recipe.sparsity.warmup)
        self.modules.update({"gates": gates, "lagrangian": self.price})
        self._means = gates.means()

    def parameter_groups(self) -> list[ParameterGroup]:
        """The student's, the layer map's, and the gates' with their price's, each with its rate and schedule."""
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
        """Draw the step's gates, the same in all processes, then count frames and choose pairs."""
        generator = torch.Generator().manual_seed(noise_seed(self.recipe.run.seed, step, 0, GATE_NOISE))
        self.sample = self.gates.sample(generator)
        super().begin_step(step, parts)

    def end_step(self) -> None:
        """Hand the gates' gradients on, and add the price of the expected sparsity (equation 5)."""
        super().end_step()
        self.sample.backward(self.processes.sum_)
        self.expected = expected_sparsity(self.gates.config, self.gates.probabilities(), self.cost)
        self.penalty = self.price(self.expected, self.target(self.step), list(self.gates.parameters()))
        self.penalty.backward()

    def after_step(self) -> None:
        """Keep the gates' parameters within their bounds."""
        self.gates.clamp_()
        self._means = self.gates.means()

    def metrics(self) -> dict[str, Tensor]:
        """Loss, penalty, sparsity and target; means of gates as gate/KIND and layer_gate/KIND/LAYER, from 1."""
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
                scalars |= {f"layer_gate/{kind}/{number}": value for number, value in enumerate(layers, start=1)}
        return super().metrics() | {name: self.processes.scalar(value) for name, value in scalars.items()}

    def shown(self) -> Sequence[str]:
        """Distillation, sparsity and target."""
        return ("distillation", "sparsity", "target")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state)
        self._means = self.gates.means()

    def _gates(self) -> EncoderGates:
        return self.sample.gates

    def _alive(self) -> Tensor:
        """(L,) bool: layers of which a sublayer's gate is expected above one half; without such gates, all."""
        coarse = [self._means[kind] > 0.5 for kind in SUBLAYER_KINDS if kind in self._means]
        return torch.stack(coarse).any(0) if coarse else super()._alive()
