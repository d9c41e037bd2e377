"""PARP's question on real weights: CTC letters from Whisper base's encoder on ten minutes of speech.

    python -m benchmarks.whisper.parp --speech FOLDER --device cuda        all runs, then results/whisper_parp
    python -m benchmarks.whisper.parp --speech FOLDER --methods dense      whether dense reaches a useful error at all
    python -m benchmarks.whisper.parp --table                              the table alone

Budget, stated before any run: 18 runs of 2000 updates of 80 s of speech each. They are for a GPU; on a core one update
takes seconds. Ten minutes of libri_spk's training speakers are learned from, the speakers of the test split are asked,
and both have pseudo-labels made by machine. Dense is looked at first: where it errs in more than half of the words,
pruning has nothing to show. Every method takes the same number of updates; runs go on where they were interrupted.
The miniature shows that the command works, and nothing else: its table is written beside its runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import RESULTS, machine, write
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.convert.whisper import at_own_length
from pruned_upstream.training.parp import REPORT_FILE, ParpRecipe, run_parp
from pruned_upstream.training.recipe import load_recipe

from . import weights
from .speech import Clip, Speech

MINUTES = 10
LONGEST = 16  # seconds of a recording that is learned from
ASKED = 40  # recordings
METHODS = ("dense", "mpi", "omp", "parp", "parp_p")
SPARSITIES = (0.5, 0.7)
SEEDS = (0, 1)
STEPS = 2000
USELESS = 0.5  # share of words
SETTINGS = (
    "data.batch_seconds=80",
    f"data.max_seconds={LONGEST}",
    "data.workers=2",
    "optimisation.accumulation=1",
    "optimisation.learning_rate=1e-4",
    "optimisation.frozen=0.1",
    "optimisation.precision=fp32",
    "masking.frames=0.3",
    "masking.channels=0.1",
)
MINIATURE = ("data.batch_seconds=16", "data.workers=0")
MINIATURE_STEPS, MINIATURE_ASKED = 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whisper.parp", description="See the module's docstring."
    )
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--root", type=Path, default=Path("runs/whisper_parp"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--miniature", action="store_true", help="whether the command works: nothing that it says counts"
    )
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        wanted = weights.missing() + ([] if arguments.speech is None else Speech(arguments.speech).missing())
        if arguments.speech is None or wanted:
            sys.exit(f"not run: {', '.join(wanted) or '--speech'} is missing; `--help` says more")
        speech, methods = Speech(arguments.speech), arguments.methods.split(",")
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        if arguments.miniature:
            root = arguments.root / "miniature"
            run(speech, root, methods, seeds[:1], MINIATURE_STEPS, "cpu", SPARSITIES[:1], miniature=True)
            table(root, folder=root)
            return
        run(speech, arguments.root, methods, seeds, arguments.steps, arguments.device)
    table(arguments.root)


def run(
    speech: Speech,
    root: Path,
    methods: list[str],
    seeds: list[int],
    steps: int,
    device: str,
    sparsities: Sequence[float] = SPARSITIES,
    *,
    miniature: bool = False,
) -> None:
    """What is missing; dense first, and nothing after it where that is useless, unless it is a miniature."""
    root.mkdir(parents=True, exist_ok=True)
    teacher = root / "teacher.safetensors"
    if not teacher.exists():
        save(teacher, at_own_length(weights.teacher()), provenance={"method": "conversion"})
    train, test = manifests(speech, root, MINIATURE_ASKED if miniature else ASKED)
    common = [f"teacher={teacher}", f"data.train=[{train}]", f"data.test=[{test}]", f"run.device={device}"]
    common += [*SETTINGS, *(MINIATURE if miniature else ()), f"optimisation.steps={steps}"]
    for method in sorted(methods, key=lambda name: name != "dense"):
        for sparsity in sparsities if method != "dense" else (0.0,):
            for seed in seeds:
                folder = root / f"{method}-{sparsity:g}-{seed}"
                if (folder / REPORT_FILE).exists():
                    continue
                print(folder.name, flush=True)
                own = [f"run.folder={folder}", f"run.seed={seed}", f"parp.method={method}"]
                own += [f"parp.sparsity={sparsity}"] if sparsity else []
                run_parp(load_recipe("parp_10min", ParpRecipe, [*common, *own]))
        if method == "dense" and not miniature and min(_errors(root)["dense", 0.0]) > USELESS:
            print(f"dense errs in more than {USELESS:.0%} of the words: more updates or another rate, before pruning")
            return


def manifests(speech: Speech, root: Path, asked: int) -> tuple[Path, Path]:
    """train.tsv and test.tsv, with the pseudo-labels in .wrd beside them."""
    with open(speech.root / "libri_spk" / "transcripts.csv", newline="", encoding="utf-8") as file:
        texts = {row["file"]: row["text"] for row in csv.DictReader(file)}

    def transcribed(split: str) -> list[tuple[Clip, str]]:
        pairs = [(clip, texts.get(f"audio/{clip.path.name}", "")) for clip in speech.read_speech(split)]
        return [(clip, text) for clip, text in pairs if text]

    chosen, seconds = [], 0.0
    for clip, text in transcribed("train"):
        if seconds < 60 * MINUTES and clip.seconds <= LONGEST:
            chosen.append((clip, text))
            seconds += clip.seconds
    return _manifest(speech, root / "train.tsv", chosen), _manifest(
        speech, root / "test.tsv", transcribed("test")[:asked]
    )


def _manifest(speech: Speech, path: Path, pairs: list[tuple[Clip, str]]) -> Path:
    import soundfile

    lines = [f"{clip.path.relative_to(speech.root)}\t{soundfile.info(clip.path).frames}" for clip, _ in pairs]
    path.write_text("\n".join([str(speech.root), *lines]) + "\n")
    path.with_suffix(".wrd").write_text("\n".join(text for _, text in pairs) + "\n")
    return path


def _errors(root: Path) -> dict[tuple[str, float], list[float]]:
    """Word error of each seed, by method and sparsity."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for path in sorted(root.glob(f"*/{REPORT_FILE}")):
        method, sparsity, _ = path.parent.name.rsplit("-", 2)
        tests = json.loads(path.read_text())["tests"].values()
        found[method, float(sparsity)] += [test["wer"] for test in tests]
    return found


def table(root: Path, folder: Path = RESULTS) -> None:
    rows = [
        {
            "method": method,
            "pruned %": round(100 * sparsity),
            "seeds": len(errors),
            "word errors %": round(100 * statistics.mean(errors), 1),
            "range": f"{100 * min(errors):.1f} to {100 * max(errors):.1f}",
        }
        for (method, sparsity), errors in sorted(_errors(root).items())
    ]
    if rows:
        write(
            "whisper_parp",
            rows,
            machine(dtype="float32"),
            note="Pseudo-labels, greedy decoding. See the module.",
            folder=folder,
        )


if __name__ == "__main__":
    main()
