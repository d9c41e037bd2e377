"""Makes and asks what is missing, one file per answer, and writes the page; see the package's docstring."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from pruned_upstream.files import write_text
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.cost import cost_of

from . import page, weights
from .asking import TRANSCRIBED, Interview, Student
from .speech import Speech
from .students import LAYER_0, MAIN, METHODS, REPAIRED_ON, SPARSITIES, STEPS, TUNED, made, plain

TUNING_SEED = 10
SEPARATOR = ";"  # names of methods have commas


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whisper", description="See the package's docstring.")
    parser.add_argument("--speech", type=Path, help="folder of the sets")
    parser.add_argument("--root", type=Path, default=Path("runs/whisper"))
    parser.add_argument("--names", default=SEPARATOR.join(METHODS), help=f"methods, joined by {SEPARATOR}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--kept", default=",".join(str(s) for s in SPARSITIES), help="sparsities")
    parser.add_argument("--heads", action="store_true", help="the questions that need heads, too")
    parser.add_argument("--tune", action="store_true", help="settings to choose from, asked on the dev speakers")
    parser.add_argument("--table", action="store_true", help="only write the page of what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        wanted = weights.missing() + ([] if arguments.speech is None else Speech(arguments.speech).missing())
        if arguments.speech is None or wanted:
            sys.exit(f"not run: {', '.join(wanted) or '--speech'} is missing; `--help` says more")
        benchmark = Benchmark(arguments.root, Speech(arguments.speech), "dev" if arguments.tune else "test")
        if arguments.tune:
            benchmark.tune()
        else:
            sparsities = [float(s) for s in arguments.kept.split(",")]
            seeds = [int(seed) for seed in arguments.seeds.split(",")]
            benchmark.run(arguments.names.split(SEPARATOR), sparsities, seeds, arguments.heads)
    page.write(arguments.root)


class Benchmark:
    """What lies under one folder: `teacher.safetensors`, `students/LABEL`, `SPLIT/LABEL.json` with the answers."""

    def __init__(self, root: Path, speech: Speech, split: str) -> None:
        self.root, self.split = root, split
        root.mkdir(parents=True, exist_ok=True)
        self.teacher = root / "teacher.safetensors"
        if not self.teacher.exists():
            save(self.teacher, weights.teacher(), provenance={"method": "conversion"})
        self.joined = speech.joined(root)
        self.interview = Interview(speech, split, root)

    def run(self, names: list[str], sparsities: list[float], seeds: list[int], heads: bool) -> None:
        self._record("teacher", 0.0, 0, heads)
        self._record_layer_0()
        for seed in seeds:
            for sparsity in sorted(sparsities, key=lambda s: s != MAIN):  # the main size first
                for name in names:
                    if sparsity in METHODS[name].sizes:
                        self._record(name, sparsity, seed, heads)

    def tune(self) -> None:
        self._record("teacher", 0.0, 0, False)
        for name, variants in TUNED.items():
            for variant, changes in variants.items():
                self._record(name, MAIN, TUNING_SEED, False, variant, changes)

    def _record_layer_0(self) -> None:
        path = self.root / self.split / f"{plain(LAYER_0)}.json"
        if not path.exists():
            config = load(self.teacher).config
            answer = {"name": LAYER_0, "sparsity": 0.0, "seed": 0, "variant": "", "budget": ""}
            size = count_parameters(config) - int(cost_of("transformer").counted(config))
            answer |= {"parameters": size, "core": self.interview.layer_0()}
            write_text(path, json.dumps(answer, indent=1) + "\n")

    def _record(
        self, name: str, sparsity: float, seed: int, heads: bool, variant: str = "", changes: tuple[str, ...] = ()
    ) -> None:
        parts = [name, f"{sparsity:g}", str(seed), variant]
        label = "-".join(plain(part) for part in parts if part)
        path = self.root / self.split / f"{label}.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if known and (not heads or "heads" in known):
            return
        print(label, flush=True)
        is_teacher = name == "teacher"
        file = self.teacher
        if not is_teacher:
            file = made(name, sparsity, seed, self.teacher, self.joined, self.root / "students" / label, changes)
        encoder = load(file)
        student = Student(encoder)
        if not known:
            dense, prunable = load(self.teacher).config, cost_of("transformer")
            known = {
                "name": name,
                "sparsity": sparsity,
                "seed": seed,
                "variant": variant,
                "budget": f"whole windows, {STEPS} steps, repaired on {REPAIRED_ON} s",
                "parameters": count_parameters(read_out(encoder.config)),
                "gone": 1 - prunable.counted(encoder.config) / prunable.counted(dense),
                "transcribed": TRANSCRIBED,
                "core": self.interview.core(student, is_teacher=is_teacher),
            }
        if heads:
            known["heads"] = self.interview.heads(student, is_teacher=is_teacher)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(known, indent=1) + "\n")


def read_out(config: EncoderConfig) -> EncoderConfig:
    """What is computed to answer: of the prediction heads, the last."""
    return dataclasses.replace(config, prediction_heads=min(config.prediction_heads, 1))


if __name__ == "__main__":
    main()
