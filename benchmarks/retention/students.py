"""Who is compared: students of one size, trained for the same number of steps, and the controls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruned_upstream.distillation.student import shallow_config
from pruned_upstream.miniature.demo import TEACHER as START
from pruned_upstream.model.checkpoint import read_header
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.gating import EncoderGates, LayerGates
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.cost import cost_of

from .questions import Layers

STEPS = 400
CONTROLS = ("layer 0", "random weights", "random mask")
SHALLOW_LAYERS = 2  # of the distilled student, as published
KEPT = 0.33  # of every kind of dimension in every layer, for the random mask


@dataclass(frozen=True)
class Method:
    """A recipe, what is overridden in it, and what it stands for."""

    command: str  # prune or distill
    recipe: str
    overrides: tuple[str, ...]
    text: str
    predicts: bool = False  # the last prediction head's output, which imitates the teacher's last layer, comes last

    def train(self, seed: int, teacher: Path, speech: Path, folder: Path, changes: Sequence[str] = ()) -> Path:
        """The model file in `folder`; an interrupted training goes on.

        Args:
            speech: the manifest that the teacher learned from, too.
            changes: overrides beyond the method's own.
        """
        from pruned_upstream.training.distill import DistillRecipe, run_distill
        from pruned_upstream.training.prune import PruneRecipe, run_prune
        from pruned_upstream.training.recipe import load_recipe

        run, schema = {"prune": (run_prune, PruneRecipe), "distill": (run_distill, DistillRecipe)}[self.command]
        common = (f"teacher={teacher}", f"data.train=[{speech}]", f"run.folder={folder}", f"run.seed={seed}")
        common += ("run.device=cpu", "data.workers=0")
        return run(load_recipe(self.recipe, schema, [*self.overrides, *changes, *common]))


def _sparsities() -> tuple[float, float]:
    """What is left out of the transformer, and of everything, for a student to be as large as the distilled one."""
    config = read_header(START).config  # the shape is the benchmark teacher's, too
    removed = count_parameters(config) - count_parameters(shallow_config(config, SHALLOW_LAYERS))
    return removed / cost_of("transformer").counted(config), removed / count_parameters(config)


def _rate(value: float) -> tuple[str, ...]:
    return (f"optimisation.learning_rate={value}",)


def _rates(value: float) -> tuple[str, ...]:
    return (*_rate(value), f"second_stage.learning_rate={value / 2}")


OF_TRANSFORMER, OF_EVERYTHING = _sparsities()
TWO_STAGES = (  # 2 : 1, as DPHuBERT's 50k and 25k
    f"optimisation.steps={STEPS * 2 // 3}",
    f"second_stage.steps={STEPS - STEPS * 2 // 3}",
    "second_stage.warmup=0.2",
    *_rates(1e-3),
)
# Rates were chosen on the dev voices, see VARIANTS. At 0.03 the multipliers wind up while the gates are on their way,
# and drive them ten points past the target before they have shrunk again.
ASCENDED = ("sparsity.price=multipliers", "repair.after_cut=false")  # as the papers have it, and the demo has not
PATIENT = (*ASCENDED, "optimisation.multiplier_learning_rate=0.01")
IMPATIENT = (*ASCENDED, "optimisation.multiplier_learning_rate=0.03")
FALLING = ("optimisation.gate_schedule=linear",)
OURS = (*_rate(1e-3), *PATIENT)
PAPER = (f"optimisation.steps={STEPS}", f"sparsity.target={OF_TRANSFORMER}", "sparsity.exact=true", *OURS)
FRONT_END_TOO = (
    "gates.conv=true",
    "sparsity.scope=everything",
    f"sparsity.target={OF_EVERYTHING}",
    "sparsity.exact=true",
    "distillation.teacher_layers=null",
)
SHALLOW = (f"optimisation.steps={STEPS}", *_rate(4e-3), "distillation.keep_heads=true")
WHOLE_HEADS = ("gates.fine_grained=false", "gates.drop_head=0.076")

METHODS = {
    "ours": Method("prune", "demo", PAPER, "the paper's method: fine-grained heads, estimator, learned pairs"),
    "no FAHP": Method("prune", "demo", (*PAPER, *WHOLE_HEADS), "whole heads instead of their dimensions"),
    "no STE": Method("prune", "demo", (*PAPER, "gates.straight_through=false"), "the true gradient of the gates"),
    "no pairing": Method("prune", "demo", (*PAPER, "distillation.pairing=fixed"), "fixed pairs of layers"),
    "DPHuBERT": Method(
        "prune",
        "demo",
        (
            *FRONT_END_TOO,
            *WHOLE_HEADS,
            *TWO_STAGES,
            "gates.multi_scale=false",
            "gates.straight_through=false",
            "gates.clamp=null",
            "gates.drop_conv=0.076",
            "distillation.groups=[[0],[2,4,6]]",
            "distillation.pairing=fixed",
            "distillation.loss=l1_minus_cosine",
            *FALLING,
            *IMPATIENT,
        ),
        "whole heads, feed-forward dimensions and channels; fixed pairs; L1 and cosine; two stages",
    ),
    "DistilHuBERT": Method("distill", "demo_distil", SHALLOW, "the first two layers; their prediction heads dropped"),
    "DistilHuBERT + head": Method(
        "distill",
        "demo_distil",
        SHALLOW,
        "the same, with its prediction of the teacher's last layer as last layer",
        True,
    ),
    "combined": Method(
        "prune",
        "demo",
        (
            *FRONT_END_TOO,
            *TWO_STAGES,
            *PATIENT,
            "gates.drop_conv=0.076",
            "distillation.groups=[[0],[2,3,5,6]]",
        ),
        "ours with gates of channels and a second stage",
    ),
}


VARIANTS = {  # what the settings of each method are chosen from, on the dev voices: four each
    "ours": {
        "rate 1e-3": (*_rate(1e-3), *IMPATIENT),
        "rate 1e-3, falling gate rate": (*_rate(1e-3), *IMPATIENT, *FALLING),
        "rate 2e-3, falling gate rate": (*_rate(2e-3), *IMPATIENT, *FALLING),
        "rate 1e-3, patient multipliers": (*_rate(1e-3), *PATIENT),
    },
    "DPHuBERT": {f"rate {rate:g}": _rates(rate) for rate in (5e-4, 1e-3, 2e-3)}
    | {"rate 1e-3, constant gate rate": (*_rates(1e-3), "optimisation.gate_schedule=constant")},
    "DistilHuBERT + head": {f"rate {rate:g}": _rate(rate) for rate in (5e-4, 1e-3, 2e-3, 4e-3)},
}


def layers_of(encoder: Encoder, *, predicts: bool = False) -> Layers:
    """waveforms -> hidden states of each, (L + 1, T_i, d), and what the last prediction head makes of the last.

    `hide` changes the projected features, (B, T, d) -> (B, T, d), before the transformer reads them.
    """
    encoder.eval()

    def represent(waveforms: Sequence[Tensor], hide: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        padded, lengths = encoder.prepare(list(waveforms))
        projected = encoder.project(encoder.features(padded))
        mask = encoder.padding_mask(lengths, padded.size(1))
        found = encoder.contextualize(projected if hide is None else hide(projected), mask)
        if predicts:
            found = [*found, encoder.prediction_heads[-1](found[-1])]
        states = torch.stack(found)  # (L + 1, B, T, d)
        return [states[:, i, : encoder.config.frames(len(wav))] for i, wav in enumerate(waveforms)]

    return represent


def milliseconds(layers: Layers, *, seconds: float = 10.0, repeats: int = 7) -> float:
    """Of one utterance at batch 1: the shortest of some passes, for what else a machine does can only add to it."""
    waveform = torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(0))
    taken = []
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first derives weights and warms up
            start = time.perf_counter()
            layers([waveform])
            taken.append(time.perf_counter() - start)
    return 1e3 * min(taken[1:])


def control(name: str, seed: int, teacher: Encoder) -> tuple[Layers, int]:
    """What is worth nothing, and its parameters: the teacher's front end alone, a student that never learned anything,
    and a teacher cut at random."""
    if name == "layer 0":
        represent = layers_of(teacher)
        one, two = (count_parameters(shallow_config(teacher.config, layers)) for layers in (1, 2))
        return lambda waveforms, **options: [states[:1] for states in represent(waveforms, **options)], 2 * one - two
    torch.manual_seed(seed)
    if name == "random weights":
        encoder = Encoder(shallow_config(teacher.config, SHALLOW_LAYERS))
    else:
        encoder = compact(teacher, random_gates(teacher, seed))
    return layers_of(encoder), count_parameters(encoder.config)


def random_gates(teacher: Encoder, seed: int) -> EncoderGates:
    """Zeros and ones: KEPT of the dimensions of each kind in each layer stay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        gates = torch.zeros(size)
        gates[torch.randperm(size, generator=generator)[: round(KEPT * size)]] = 1.0
        return gates

    dim, ffn = teacher.config.embed_dim, teacher.config.ffn_dim
    return EncoderGates([LayerGates(qk=draw(dim), vo=draw(dim), ffn=draw(ffn)) for _ in teacher.config.layers])
