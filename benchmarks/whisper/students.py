"""Who is compared: students of the same teacher, with the same share of its transformer left.

A student that learns takes the same number of steps, of the same windows; what has two stages divides them. Settings
that a short run needs otherwise than a long one are the same for all methods, and were chosen on the dev speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruned_upstream.files import atomic_write
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.gates import GateSettings, encoder_gates, gate_shapes
from pruned_upstream.pruning.sparsity import counted_sparsity
from pruned_upstream.training.distill import DistillRecipe, run_distill
from pruned_upstream.training.prune import FIRST_STAGE_FILE, PruneRecipe, run_prune
from pruned_upstream.training.recipe import load_recipe, recipe_from
from pruned_upstream.training.repairing import RepairRecipe, run_repair

STEPS = 60  # of every method that learns
SPARSITIES = (0.25, 0.5, 0.67, 0.8)
MAIN = 0.67  # of what learns, if time is short
LEARNING_SIZES = (0.5, MAIN, 0.8)
WINDOWS = ("data.max_seconds=30", "data.batch_utterances=1", "data.workers=0")
REPAIRED_ON = 480  # seconds of speech
CALIBRATION = (f"repair.seconds={REPAIRED_ON}",)  # of what is scored or repaired
SHORT = (  # so short a run: gates in a hurry, all started open, and a target that rises for a third of the steps
    "optimisation.gate_learning_rate=0.2",
    "optimisation.multiplier_learning_rate=0.2",
    "sparsity.warmup=0.3",
    *(f"gates.drop_{kind}=0.076" for kind in ("qk", "vo", "ffn", "head")),
)
LEARNING_RATE = 5e-5  # at 2e-4 students got worse, at 2e-5 they hardly move (results/whisper_discussion.md)
PRECISION = "bf16"  # as recipes have it; a step takes a third of the time less
LAYERS = 6  # of the teacher


@dataclass(frozen=True)
class Method:
    """A recipe, what is overridden in it, and what it stands for.

    two_stages: a third of the steps is left for the second. repairs: the method whose student is made, then repaired.
    begins: the method whose first stage this is, at the sizes that it has; nothing is trained twice.
    """

    text: str
    recipe: str = "wavlm_base"
    overrides: tuple[str, ...] = ()
    two_stages: bool = False
    sizes: tuple[float, ...] = LEARNING_SIZES
    control: bool = False
    repairs: str = ""
    begins: str = ""


WHOLE_HEADS = ("gates.fine_grained=false", "gates.principal_axes=false")
OWN_AXES = ("gates.principal_axes=false",)
NO_REPAIR = ("repair.after_cut=false",)
REPAIRED = ("repair.after_cut=true",)
FAST = (*WHOLE_HEADS, f"second_stage.steps={STEPS}")
LAYER_0 = "layer 0"  # a control: the teacher without its transformer
METHODS = {
    "random": Method(
        "of every kind of dimension in every layer as many as chance leaves", sizes=SPARSITIES, control=True
    ),
    "random + repair": Method("the same, its output matrices refitted", repairs="random", control=True),
    "one-shot": Method("the dimensions of the highest scores", "one_shot", NO_REPAIR, sizes=SPARSITIES),
    "one-shot + repair": Method("and output matrices refitted", "one_shot", REPAIRED, sizes=SPARSITIES, begins="best"),
    "one-shot + repair, twice the speech": Method(
        f"refitted on {2 * REPAIRED_ON} s", "one_shot", (*REPAIRED, f"repair.seconds={2 * REPAIRED_ON}")
    ),
    "best": Method(
        "one-shot, repaired, all the steps in the second stage, repaired again",
        "best",
        (f"second_stage.steps={STEPS}",),
    ),
    "one-shot, own axes": Method("heads are not turned", "one_shot", (*NO_REPAIR, *OWN_AXES), sizes=SPARSITIES),
    "one-shot + repair, own axes": Method(
        "heads are not turned", "one_shot", (*REPAIRED, *OWN_AXES), sizes=SPARSITIES, begins="best, own axes"
    ),
    "best, own axes": Method("heads are not turned", "best", (f"second_stage.steps={STEPS}", *OWN_AXES)),
    "gentle": Method("gates under the gentle price, cut, repaired, distilled, repaired", "gentle", two_stages=True),
    "gentle, own axes": Method("heads are not turned", "gentle", OWN_AXES, two_stages=True),
    "multipliers, own axes": Method(
        "the same with the paper's price", "gentle", ("sparsity.price=multipliers", *OWN_AXES), two_stages=True
    ),
    "fast": Method("best with whole heads; the light front end is none for log-mel features", "best", FAST),
    "the paper": Method("fine-grained heads, straight-through estimator, learned pairs"),
    "the paper + repair": Method("the same student, its output matrices refitted", repairs="the paper"),
    "w/o FAHP": Method("whole heads instead of their dimensions", overrides=WHOLE_HEADS),
    "w/o STE": Method("the true gradient of the gates", overrides=("gates.straight_through=false",)),
    "the paper, two stages": Method("a third of the steps with the shape fixed", two_stages=True),
    "DPHuBERT-style": Method(
        "whole heads, fixed pairs, L1 and cosine, two stages; its front end is left whole",
        overrides=(
            *WHOLE_HEADS,
            "gates.multi_scale=false",
            "gates.straight_through=false",
            "distillation.groups=[[0],[2,4,6]]",
            "distillation.pairing=fixed",
            "distillation.loss=l1_minus_cosine",
            "optimisation.gate_schedule=linear",
        ),
        two_stages=True,
    ),
    "DistilHuBERT-style": Method(
        "the first 3 (2) of 6 layers, and heads that predict; asked behind one", "distil_wavlm"
    ),
}


def made(
    name: str, sparsity: float, seed: int, teacher: Path, speech: Path, folder: Path, changes: tuple[str, ...] = ()
) -> Path:
    """The model file of a student in `folder`; an interrupted training goes on.

    Args:
        teacher: the model file, which hears whole windows.
        speech: the folder.
        changes: overrides beyond the method's own.
    """
    method = METHODS[name]
    if name == "random":
        return _random(sparsity, seed, teacher, folder)
    if method.repairs:
        before = folder.with_name(folder.name.replace(plain(name), plain(method.repairs)))
        return _repaired(made(method.repairs, sparsity, seed, teacher, speech, before), teacher, speech, folder)
    if method.begins and sparsity in METHODS[method.begins].sizes and not changes:
        whole = folder.with_name(folder.name.replace(plain(name), plain(method.begins)))
        return made(method.begins, sparsity, seed, teacher, speech, whole, changes).with_name(FIRST_STAGE_FILE)
    common = [f"teacher={teacher}", f"data.train=[{speech}]", f"run.folder={folder}", f"run.seed={seed}"]
    common += [*WINDOWS, "run.device=cpu", "run.log_every=8", "run.checkpoint_every=20"]
    common += [f"optimisation.precision={PRECISION}"]
    common += [f"optimisation.learning_rate={LEARNING_RATE}"]
    if method.recipe == "distil_wavlm":
        own = ["distillation.teacher_layers=null", "distillation.keep_heads=true", f"optimisation.steps={STEPS}"]
        own += [f"student.layers={round((1 - sparsity) * LAYERS)}"]
        return run_distill(load_recipe(method.recipe, DistillRecipe, [*common, *own, *method.overrides, *changes]))
    steps = 0 if method.recipe in ("one_shot", "best") else STEPS * 2 // 3 if method.two_stages else STEPS
    own = [f"sparsity.target={sparsity}", "sparsity.exact=true", "distillation.teacher_layers=null", *SHORT]
    own += CALIBRATION
    own += [f"optimisation.steps={steps}", f"second_stage.learning_rate={LEARNING_RATE}"]
    own += [f"second_stage.steps={STEPS - steps}"] if method.two_stages else []
    return run_prune(load_recipe(method.recipe, PruneRecipe, [*common, *own, *method.overrides, *changes]))


def plain(name: str) -> str:
    """As it stands in the names of files."""
    return name.replace(" ", "_").replace("/", "")


def _random(sparsity: float, seed: int, teacher: Path, folder: Path) -> Path:
    """The same share of every kind of dimension in every layer, drawn by chance, to the sparsity."""
    encoder = load(teacher)
    config = encoder.config
    generator = torch.Generator().manual_seed(seed)
    settings = GateSettings(multi_scale=False)
    scores = {kind: torch.rand(s, generator=generator).flatten(1) for kind, s in gate_shapes(config, settings).items()}
    order = {kind: score.argsort(1).argsort(1) for kind, score in scores.items()}

    def gates(kept: float) -> Mapping[str, Tensor]:
        shapes = gate_shapes(config, settings)
        return {kind: (rank < kept * rank.size(1)).float().view(shapes[kind]) for kind, rank in order.items()}

    smaller = compact(encoder, encoder_gates(config, gates(1 - sparsity)))
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "compact.safetensors", smaller, provenance={"method": "random mask"})
    if abs(counted_sparsity(config, smaller.config) - sparsity) > 0.005:
        raise ValueError(f"a random mask of {sparsity} left {counted_sparsity(config, smaller.config)}")
    return folder / "compact.safetensors"


def _repaired(model: Path, teacher: Path, speech: Path, folder: Path) -> Path:
    out = folder / "compact.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as temporary:
        options = [f"teacher={teacher}", f"data.train=[{speech}]", "device=cpu", *WINDOWS, *CALIBRATION]
        run_repair(model, recipe_from(options, RepairRecipe), Path(temporary))
    return out


# what is chosen from on the dev speakers
TUNED = {
    "one-shot + repair": {f"repaired on {seconds} s": (f"repair.seconds={seconds}",) for seconds in (240, 480, 960)},
}
