"""Structured pruning by distillation, from a teacher to a compact model file (Wang et al., Interspeech 2023).

The student starts as the teacher. Each step draws its gates, compares its layers with the teacher's and pays for
being larger than the target; at the end the gates are folded in, what they closed is cut away, and the result is
checked against the gated student before it is written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distillation.pairing import LayerPairing
from ..files import atomic_write
from ..model.checkpoint import save
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.gating import EncoderGates
from ..model.size import count_parameters
from ..pruning.compaction import compact, verify
from ..pruning.gates import CONV, Gates, GateSample
from ..pruning.sparsity import Lagrangian, TargetSparsity, counted_sparsity, expected_sparsity
from .corpus import find_corpus
from .data import Batch, Batches, noise_seed
from .loop import ParameterGroup, Trainer, decayed
from .processes import Processes, start_processes
from .provenance import provenance
from .recipe import PruneOptimisation, PruneRecipe
from .schedules import warmup_constant, warmup_linear_decay

log = logging.getLogger(__name__)

MODEL_FILE = "compact.safetensors"
REPORT_FILE = "report.json"
HEADERS_FILE = "headers.json"
VERIFIED_STEPS = 2  # batches on which gated and compact model are compared,
VERIFIED_RECORDINGS = 4  # by at most so many recordings of each
GATE_NOISE = 1  # sets the seeds of gates apart from those of micro-batches


class _Encoded(NamedTuple):
    """Both models' view of a micro-batch: L + 1 hidden states (B, T, d) each, and the frames that count, (B, T)."""

    student: list[Tensor]
    teacher: list[Tensor]
    valid: Tensor


class PruningObjective:
    """Layer distillation with the price of size, equation 5.

    One draw of the gates serves all parts of a step, on all processes. The pairs of layers are chosen from the
    errors of the whole batch; where a process computes its share in several parts, that takes a pass without
    gradients ahead of the pass with them (same gates, same dropout), since no pair is known before the last part.
    """

    # of the step that is being done
    step: int
    sample: GateSample
    frames: Tensor  # of the whole batch, without padding
    pairs: list[int]  # the student layer of each teacher layer
    distillation: Tensor
    expected: Tensor
    penalty: Tensor
    _kept: _Encoded | None  # of a step's only part, which need not be encoded again

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        gates: Gates,
        pairing: LayerPairing,
        recipe: PruneRecipe,
        processes: Processes = Processes(),
    ) -> None:
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student.train()
        self.gates = gates
        self.pairing = pairing
        self.lagrangian = Lagrangian().to(processes.device)
        self.recipe = recipe
        self.processes = processes
        steps = recipe.optimisation.steps
        self.target = TargetSparsity(recipe.sparsity.target, round(recipe.sparsity.warmup * steps))
        self.modules = nn.ModuleDict(
            {"student": student, "gates": gates, "pairing": pairing, "lagrangian": self.lagrangian}
        )
        self._means = gates.means()

    def parameter_groups(self) -> list[ParameterGroup]:
        options: PruneOptimisation = self.recipe.optimisation
        weights = [p for p in self.student.parameters() if decayed(p)]
        others = [p for p in self.student.parameters() if not decayed(p)]
        schedule = warmup_linear_decay(options.steps, options.warmup)
        steady = warmup_constant(options.steps, options.warmup)
        return [
            ParameterGroup("weights", weights, options.learning_rate, schedule, options.weight_decay),
            ParameterGroup("biases", others, options.learning_rate, schedule),
            # decay would pull the layer map away from the identity it starts as
            ParameterGroup("layer_map", list(self.pairing.parameters()), options.learning_rate, schedule),
            ParameterGroup("gates", list(self.gates.parameters()), options.gate_learning_rate, steady, replicated=True),
            ParameterGroup(
                "multipliers",
                list(self.lagrangian.parameters()),
                options.multiplier_learning_rate,
                steady,
                maximise=True,
                replicated=True,
            ),
        ]

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        self.step = step
        generator = torch.Generator().manual_seed(noise_seed(self.recipe.run.seed, step, 0, GATE_NOISE))
        self.sample = self.gates.sample(generator)
        filled = [part for part in parts if part.wavs]
        self.frames = self._sum(torch.tensor(float(sum(self._count(part) for part in filled))))
        self._kept = None
        table = self.pairing.empty_table()
        if len(filled) == 1:
            self._kept = self._encode(filled[0])
            if self.pairing.needs_table:
                table += self.pairing.table(*self._kept)
        elif self.pairing.needs_table:
            with torch.no_grad():
                for part in filled:
                    table += self.pairing.table(*self._encode(part))
        self.pairs = self.pairing.choose(self._sum(table), self._alive())
        self.distillation = torch.zeros((), device=self.processes.device)

    def loss(self, part: Batch) -> Tensor:
        encoded = self._encode(part) if self._kept is None else self._kept
        self._kept = None
        loss = self.pairing(*encoded, self.pairs) / self.frames
        self.distillation += loss.detach()
        return loss

    def end_step(self) -> None:
        self.sample.backward(self.processes.sum_)
        self._sum(self.distillation)
        self.expected = expected_sparsity(self.gates.config, self.gates.probabilities(), self.recipe.sparsity.scope)
        self.penalty = self.lagrangian(self.expected, self.target(self.step))
        self.penalty.backward()

    def after_step(self) -> None:
        self.gates.clamp_()
        self._means = self.gates.means()

    def metrics(self) -> dict[str, Tensor]:
        scalars: dict[str, Any] = {
            "loss": self.distillation + self.penalty.detach(),
            "distillation": self.distillation,
            "penalty": self.penalty.detach(),
            "sparsity": self.expected.detach(),
            "target": self.target(self.step),
            "lambda1": self.lagrangian.lambda1.detach().clone(),
            "lambda2": self.lagrangian.lambda2.detach().clone(),
            "frames": self.frames,
        }
        scalars |= {f"gate/{kind}": mean.mean() for kind, mean in self._means.items()}
        for kind, mean in self._means.items():
            if not kind.startswith(CONV):  # the others are stacked, all layers in one tensor
                layers = mean.flatten(1).mean(1) if mean.dim() > 1 else mean  # (L,)
                scalars |= {f"layer_gate/{kind}/{number}": value for number, value in enumerate(layers)}
        scalars |= {f"pair/{k}": j for k, j in zip(self.pairing.teacher_layers, self.pairs, strict=True)}
        return {
            name: torch.as_tensor(value, device=self.processes.device, dtype=torch.float32)
            for name, value in scalars.items()
        }

    def shown(self) -> Sequence[str]:
        return ("distillation", "sparsity", "target")

    def state_dict(self) -> dict[str, Any]:
        return dict(self.modules.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules.load_state_dict(state)
        self._means = self.gates.means()

    def _alive(self) -> Tensor:
        """(L,) bool: layers of which a sublayer's gate is expected above one half; without such gates, all."""
        coarse = [self._means[kind] > 0.5 for kind in ("attention", "feed_forward") if kind in self._means]
        everything = torch.ones(self.gates.config.num_layers, dtype=torch.bool, device=self.processes.device)
        return torch.stack(coarse).any(0) if coarse else everything

    def _encode(self, part: Batch) -> _Encoded:
        torch.manual_seed(part.seed)
        waveforms, lengths = self.student.prepare(part.wavs, pad_to=part.pad_to)
        waveforms = waveforms.to(self.processes.device, non_blocking=True)
        lengths = lengths.to(self.processes.device, non_blocking=True)
        with torch.no_grad():
            teacher = self.teacher(waveforms, lengths)
        student = self.student(waveforms, lengths, gates=self.sample.gates)
        return _Encoded(student.hidden_states, teacher.hidden_states, ~student.padding_mask)

    def _count(self, part: Batch) -> int:
        """Frames of a part that are not padding."""
        lengths = torch.tensor([len(wav) for wav in part.wavs])
        frames = self.student.config.frames(part.pad_to)
        return int((~Encoder.padding_mask(lengths, part.pad_to, frames)).sum())

    def _sum(self, tensor: Tensor) -> Tensor:
        return self.processes.sum_(tensor.to(self.processes.device))


@dataclass(frozen=True)
class PruneReport:
    """What came out: sparsity as the gates expect it and as counted in the file, and what the file costs."""

    target_sparsity: float
    expected_sparsity: float
    counted_sparsity: float
    scope: str
    teacher_parameters: int
    parameters: int
    difference_from_gated: float  # largest difference of hidden states over their largest magnitude
    steps: int
    recordings: int
    hours: float
    skipped: dict[str, str]


def run_prune(recipe: PruneRecipe) -> Path:
    """Prune a teacher as the recipe says, going on where an earlier launch stopped.

    Returns:
        The compact model file. Beside it lie a report, the resolved recipe, metrics and the training state.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`, before, during or after training; no half-written model stays.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    with start_processes(recipe.run.device) as processes:
        folder = Path(recipe.run.folder)
        objective = build_objective(recipe, processes)
        with processes.main_first():
            corpus = find_corpus(
                recipe.data.train,
                min_samples=objective.student.config.receptive_field,
                cache=folder / HEADERS_FILE,
            )
        batches = Batches(corpus, recipe.data, seed=recipe.run.seed, accumulation=recipe.optimisation.accumulation)
        Trainer(objective, batches, recipe, processes).fit()
        if processes.is_main:
            _export(objective, batches, recipe, folder)
        processes.wait()
    return folder / MODEL_FILE


def build_objective(recipe: PruneRecipe, processes: Processes = Processes()) -> PruningObjective:
    """Teacher, student, gates and layer map as a recipe describes them, initialised from its seed."""
    teacher = load_teacher(recipe.teacher)
    student = load_teacher(recipe.teacher, dropout=Dropout(**asdict(recipe.dropout)))
    config = teacher.config
    torch.manual_seed(recipe.run.seed)
    gates = Gates(config, recipe.gates)
    distillation = recipe.distillation
    pairing = LayerPairing(
        config.embed_dim,
        config.num_layers,
        teacher_layers=distillation.teacher_layers,
        variant=distillation.pairing,
        loss=distillation.loss,
    )
    for module in (teacher, student, gates, pairing):
        module.to(processes.device)
    return PruningObjective(teacher, student, gates, pairing, recipe, processes)


def _export(objective: PruningObjective, batches: Batches, recipe: PruneRecipe, folder: Path) -> None:
    """Fold, cut, compare on real batches, and write. On the CPU: the comparison is exact there, whatever trained."""
    student = objective.student.cpu().eval()
    gates: EncoderGates = objective.gates.cpu().deterministic()
    smaller = compact(student, gates)
    difference = verify(student, gates, smaller, _verification_batches(student, batches))
    expected = expected_sparsity(student.config, objective.gates.probabilities(), recipe.sparsity.scope)
    report = PruneReport(
        target_sparsity=recipe.sparsity.target,
        expected_sparsity=expected.item(),
        counted_sparsity=counted_sparsity(student.config, smaller.config, recipe.sparsity.scope),
        scope=recipe.sparsity.scope,
        teacher_parameters=count_parameters(student.config),
        parameters=count_parameters(smaller.config),
        difference_from_gated=difference,
        steps=recipe.optimisation.steps,
        recordings=len(batches.corpus.utterances),
        hours=batches.corpus.hours,
        skipped=batches.corpus.skipped,
    )
    with atomic_write(folder / REPORT_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
    save(folder / MODEL_FILE, smaller, provenance=provenance(recipe, teacher=recipe.teacher, method="pruning"))


def _verification_batches(student: Encoder, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(VERIFIED_STEPS):
        for part in batches[step]:
            if part.wavs:
                yield student.prepare(part.wavs[:VERIFIED_RECORDINGS], pad_to=part.pad_to)
