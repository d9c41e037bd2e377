"""Runs what is missing, one file per answer, and writes the tables; see the package's docstring."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pruned_upstream.files import write_text
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.size import count_parameters

from . import tables, teacher
from .asking import Interview
from .speech import taught
from .students import CONTROLS, METHODS, VARIANTS, control, layers_of, milliseconds

TUNING_SEED = 10  # apart from those of the tables


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description="See the package's docstring.")
    parser.add_argument("--root", type=Path, default=Path("runs/retention"))
    parser.add_argument("--methods", default=",".join(["teacher", *CONTROLS, *METHODS]))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tune", action="store_true", help="the settings to choose from, on the dev voices")
    parser.add_argument("--table", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    names, seeds = arguments.methods.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    benchmark = Benchmark(arguments.root, "dev" if arguments.tune else "test")
    if arguments.tune:
        if not arguments.table:
            benchmark.tune(names)
        tables.write_tuning(benchmark.answers)
        return
    if not arguments.table:
        benchmark.run(names, seeds)
    tables.write(benchmark.answers)


class Benchmark:
    """The runs under one folder: teacher, `students/NAME-SEED`, `SPLIT/NAME-SEED.json` with the answers, the speech."""

    def __init__(self, root: Path, split: str) -> None:
        self.root = root
        self.split = split
        self.answers = root / split

    @cached_property
    def teacher(self) -> Path:
        return teacher.trained(self.root)

    @cached_property
    def interview(self) -> Interview:
        return Interview(self.root, self.split, teacher.predictor(self.root))

    def run(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        for name in ["teacher", *(name for name in names if name != "teacher")]:
            for seed in [0] if name in ("teacher", "layer 0") else seeds:
                self._record(name, seed, {})

    def tune(self, names: Sequence[str]) -> None:
        self._record("teacher", 0, {})
        for name in names:
            if name in CONTROLS:
                self._record(name, 0, {})
            for variant, changes in VARIANTS.get(name, {}).items():
                self._record(name, TUNING_SEED, {variant: changes})

    def _record(self, name: str, seed: int, variant: dict[str, tuple[str, ...]]) -> None:
        """Ask a model, unless it has answered."""
        label = "".join(variant)
        path = self.answers / f"{_file_name(name, label)}-{seed}.json"
        if path.exists():
            return
        print(f"{name}, seed {seed} {label}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = self._answer(name, seed, variant)
        write_text(path, json.dumps({"name": name, "seed": seed, "variant": label, **found}, indent=1) + "\n")

    def _answer(self, name: str, seed: int, variant: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        encoder = load(self.teacher)
        if name == "teacher":
            layers, parameters = layers_of(encoder), count_parameters(encoder.config)
        elif name in CONTROLS:
            layers, parameters = control(name, seed, encoder)
        else:
            path = self._student(name, seed, variant)
            student = load(path)
            config = student.config if METHODS[name].predicts else replace(student.config, prediction_heads=0)
            layers, parameters = layers_of(student, predicts=METHODS[name].predicts), count_parameters(config)
            extra = {"report": json.loads((path.parent / "report.json").read_text())}
        answers = self.interview.ask(layers, is_teacher=name == "teacher", new_heads=not variant)
        return {"parameters": parameters, "milliseconds": milliseconds(layers), **answers, **extra}

    def _student(self, name: str, seed: int, variant: dict[str, tuple[str, ...]]) -> Path:
        folder = self.root / "students" / f"{_file_name(name.removesuffix(' + head'), ''.join(variant))}-{seed}"
        changes = [change for changes in variant.values() for change in changes]
        return METHODS[name].train(seed, self.teacher, taught(self.root / "taught"), folder, changes)


def _file_name(name: str, variant: str = "") -> str:
    return "-".join(part.replace(" ", "_") for part in (name, variant) if part)


if __name__ == "__main__":
    main()
