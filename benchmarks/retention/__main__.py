"""Runs what is missing, one file an answer, and writes the tables; see the package's docstring."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pruned_upstream.files import atomic_write
from pruned_upstream.minisuperb.building import build
from pruned_upstream.minisuperb.demo import TEACHER
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.size import count_parameters

from . import questions, tables
from .questions import Items, Layers
from .speech import recordings
from .students import CONTROLS, METHODS, control, layers_of

TEACHER_LAYERS = (2, 3, 5, 6)  # whose residual is reported


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description="See the package's docstring.")
    parser.add_argument("--root", type=Path, default=Path("runs/retention"))
    parser.add_argument("--methods", default=",".join(["teacher", *CONTROLS, *METHODS]))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        Benchmark(arguments.root).run(arguments.methods.split(","), [int(seed) for seed in arguments.seeds.split(",")])
    tables.write(arguments.root / "answers")


class Benchmark:
    """The runs under one folder: `students/NAME-SEED`, `answers/NAME-SEED.json`, the speech, the teacher's heads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.training_speech = build(root / "corpora", ["pretrain"])["LibriSpeech"] / "train-clean-360"
        self.speech = recordings(root / "speech")
        self.teacher_file = root / "teacher.pt"

    def run(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        if not self.teacher_file.exists():
            names = ["teacher", *(name for name in names if name != "teacher")]
        for name in names:
            for seed in [0] if name in ("teacher", "layer 0") else seeds:
                answer = self.root / "answers" / f"{_file_name(name)}-{seed}.json"
                if answer.exists():
                    continue
                print(f"{name}, seed {seed}", flush=True)
                found = self._answer(name, seed)
                answer.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(answer) as temporary:
                    temporary.write_text(json.dumps({"name": name, "seed": seed, **found}, indent=1) + "\n")

    def _answer(self, name: str, seed: int) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if name == "teacher":
            layers, parameters = layers_of(load(TEACHER)), count_parameters(load(TEACHER).config)
        elif name in CONTROLS:
            alike = load(self._student("ours", 0))
            layers, parameters = control(name, seed, alike), count_parameters(alike.config)
        else:
            path = self._student(name, seed)
            student = load(path)
            config = student.config if METHODS[name].predicts else replace(student.config, prediction_heads=0)
            layers, parameters = layers_of(student, predicts=METHODS[name].predicts), count_parameters(config)
            extra = {"report": json.loads((path.parent / "report.json").read_text())}
        return {"parameters": parameters, **self._ask(name, layers), **extra}

    def _student(self, name: str, seed: int) -> Path:
        folder = self.root / "students" / f"{_file_name(name.removesuffix(' + head'))}-{seed}"
        return METHODS[name].train(seed, self.training_speech, folder)

    def _ask(self, name: str, layers: Layers) -> dict[str, Any]:
        heard = questions.represent(layers, self.speech)
        metrics: dict[str, float] = {}
        items = {question: len(test.labels) for question, (_, test) in heard.items.items()}
        items["letters"] = sum(map(len, heard.sentences[1].phones))
        heads = {}
        for question in questions.QUESTIONS:
            train, test = heard.items[question]
            metrics[f"{question}.sum"], *_ = questions.answer(train, test, weighted=True)
            metrics[f"{question}.last"], head, names = questions.answer(train, test, weighted=False)
            heads[question] = {"names": names, "state": head.state_dict()}
        metrics["letters.last"] = questions.phone_error_rate(*heard.sentences)
        if name == "teacher":
            with atomic_write(self.teacher_file) as temporary:
                phones = [(items.vectors, items.labels) for items in heard.items["phones"]]
                torch.save({"heads": heads, "phones": phones}, temporary)
        teacher = torch.load(self.teacher_file, weights_only=True)
        for question in questions.REUSED:
            names, test = teacher["heads"][question]["names"], heard.items[question][1]
            head = questions.Head(heard.items[question][0].vectors, len(names), weighted=False)
            head.load_state_dict(teacher["heads"][question]["state"])
            metrics[f"{question}.reused"] = questions.accuracy(head, test, names)
        taught = tuple(Items(vectors, labels) for vectors, labels in teacher["phones"])
        metrics["layer residual"] = questions.layer_residual(heard.items["phones"], taught, TEACHER_LAYERS)
        return {"metrics": metrics, "items": items}


def _file_name(name: str) -> str:
    return name.replace(" ", "_")


if __name__ == "__main__":
    main()
