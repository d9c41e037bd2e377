"""What a student keeps of its teacher with a full, a channel-pruned and a light front end.

    python -m benchmarks.front_end

The teacher is the demo's, the speech of `benchmarks.retention`, of which 264 sentences are learned from. The three
students share transformer size, seed, steps and settings. On ten voices that nobody has heard:

    layer 0 residual   share of the variance of the teacher's layer 0 that no linear map of the student's explains
    layer residual     the same of layers 2, 3, 5 and 6 from the student's best layer (`retention.questions`)
    phones             accuracy of new linear heads on the frames of unknown voices

and on other sentences of the voices that were learned from:

    speakers           accuracy of new linear heads on a second of speech, with the mean over a second of all layers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pruned_upstream.description.macs import count_macs
from pruned_upstream.files import write_text
from pruned_upstream.miniature.demo import TEACHER
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters
from pruned_upstream.training.prune import PruneRecipe, run_prune
from pruned_upstream.training.recipe import load_recipe

from .measure import machine, write
from .retention import questions
from .retention.speech import Utterance, recordings_of
from .retention.students import layers_of

LEARNED, KNOWN, ASKED, UNKNOWN = "sentences/known test", "sentences/train", "sentences/known dev", "sentences/dev"
SECONDS = 5 * 16000
COMMON = ("optimisation.learning_rate=1e-3", "optimisation.multiplier_learning_rate=0.01", "sparsity.exact=true")
LAYER_0 = ("distillation.teacher_layers=null", "distillation.groups=[[0],[2,3,5,6]]")
STUDENTS = {
    "full": (*COMMON, *LAYER_0),
    "channels pruned": (*COMMON, *LAYER_0, "gates.conv=true", "gates.drop_conv=0.076", "sparsity.scope=everything"),
    "light": (*COMMON, *LAYER_0, "front_end=light"),
}


def manifest(root: Path, spoken: list[Utterance]) -> Path:
    path = root / "learned.tsv"
    write_text(path, "\n".join([".", *(f"{u.path.relative_to(root)}\t{len(u.waveform())}" for u in spoken)]) + "\n")
    return path


def student(name: str, root: Path, learned: Path, steps: int, front_end_steps: int) -> Encoder:
    common = (f"teacher={TEACHER}", f"data.train=[{learned}]", "data.workers=0", "run.device=cpu")
    own = (f"optimisation.steps={steps}", f"front_end_stage.steps={front_end_steps}", f"run.folder={root / name}")
    own += ("sparsity.price=multipliers", "repair.after_cut=false")  # as when the figures were measured
    return load(run_prune(load_recipe("demo", PruneRecipe, [*STUDENTS[name], *common, *own])))


def ask(encoder: Encoder, teacher: Encoder, speech: dict[str, list[Utterance]]) -> dict[str, float]:
    heard = {name: list(questions._states(layers_of(encoder), speech[name])) for name in (KNOWN, ASKED, UNKNOWN)}
    theirs = {name: list(questions._states(layers_of(teacher), speech[name])) for name in (KNOWN, UNKNOWN)}
    phones, wanted = (
        tuple(questions._phones(speech[name], states[name]) for name in (KNOWN, UNKNOWN)) for states in (heard, theirs)
    )
    pieces = tuple(questions._pieces(speech[name], heard[name]) for name in (KNOWN, ASKED))
    only_first = tuple(questions.Items(items.vectors[:, :1], items.labels) for items in phones)
    return {
        "layer 0 residual": round(questions.layer_residual(only_first, wanted, (0,)), 1),
        "layer residual": round(questions.layer_residual(phones, wanted, (2, 3, 5, 6)), 1),
        "speakers": round(questions.answer(*pieces, weighted=True)[0], 1),
        "speakers, last layer": round(questions.answer(*pieces, weighted=False)[0], 1),
        "phones": round(questions.answer(*phones, weighted=True)[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/front_end"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--front-end-steps", type=int, default=600)
    arguments = parser.parse_args()
    roles = {"learned": LEARNED, "known": KNOWN, "asked": ASKED, "unknown": UNKNOWN}
    speech = {name: recordings_of(arguments.root / role, name) for role, name in roles.items()}
    learned = manifest(arguments.root, speech[LEARNED])
    teacher = load(TEACHER)
    rows = []
    for name in ["teacher", *STUDENTS]:
        sizes = (arguments.steps, arguments.front_end_steps)
        encoder = teacher if name == "teacher" else student(name, arguments.root, learned, *sizes)
        macs = count_macs(encoder.config, SECONDS)
        size = {"M parameters": count_parameters(encoder.config) / 1e6, "front end, MMACs": macs.front_end / 1e6}
        rows.append({"front end": name, **size, "all, MMACs": macs.total / 1e6, **ask(encoder, teacher, speech)})
        write("front_end", rows, machine(steps=arguments.steps, front_end_steps=arguments.front_end_steps))


if __name__ == "__main__":
    main()
