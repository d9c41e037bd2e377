"""One model's answers to all questions, with heads of its own and with its teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pruned_upstream.files import atomic_write

from . import questions
from .questions import Items, Layers, Predictor, Representations
from .speech import recordings

TEACHER_LAYERS = (2, 3, 5, 6)  # whose residual is reported


class Interview:
    """Asks models in one split of the speech under `root`, the teacher first: its heads are put on the others."""

    def __init__(self, root: Path, split: str, predictor: Predictor) -> None:
        self.speech = recordings(root / "speech", split)
        self.predictor = predictor
        self.heads_file = root / f"teacher_heads_{split}.pt"

    def ask(self, layers: Layers, *, is_teacher: bool = False, new_heads: bool = True) -> dict[str, Any]:
        """`metrics` by name, and the number of `items` of each question."""
        heard = questions.represent(layers, self.speech)
        _, asked = heard.sentences
        items = {question: len(test.labels) for question, (_, test) in heard.items.items()}
        items["letters"] = sum(map(len, asked.phones))
        metrics: dict[str, float] = {}
        if new_heads:
            metrics |= self._with_new_heads(heard, keep=is_teacher)
        teacher = torch.load(self.heads_file, weights_only=True)
        for question, (known, test) in heard.items.items():
            head, names = _head(teacher["heads"][question], known.vectors)
            metrics[f"{question}.reused"] = questions.accuracy(head, test, names)
        head, names = _head(teacher["heads"]["letters"], heard.items["phones"][0].vectors, blank=True)
        metrics["letters.reused"] = questions.phone_error_rate(head, asked, names)
        metrics["masked loss"], metrics["hidden.reused"], items["hidden"] = questions.hidden_phones(
            layers, self.speech["sentences/asked"], self.predictor
        )
        taught = tuple(Items(vectors, labels) for vectors, labels in teacher["phones"])
        metrics["layer residual"] = questions.layer_residual(heard.items["phones"], taught, TEACHER_LAYERS)
        return {"metrics": metrics, "items": items}

    def _with_new_heads(self, heard: Representations, *, keep: bool) -> dict[str, float]:
        metrics: dict[str, float] = {}
        heads = {}
        for question, (known, test) in heard.items.items():
            metrics[f"{question}.sum"], *_ = questions.answer(known, test, weighted=True)
            metrics[f"{question}.last"], head, names = questions.answer(known, test, weighted=False)
            heads[question] = {"names": names, "state": head.state_dict()}
        train, asked = heard.sentences
        head, names = questions.learn_letters(train)
        metrics["letters.last"] = questions.phone_error_rate(head, asked, names)
        heads["letters"] = {"names": names, "state": head.state_dict()}
        if keep:
            with atomic_write(self.heads_file) as temporary:
                phones = [(of_split.vectors, of_split.labels) for of_split in heard.items["phones"]]
                torch.save({"heads": heads, "phones": phones}, temporary)
        return metrics


def _head(kept: dict[str, Any], vectors: torch.Tensor, *, blank: bool = False) -> tuple[questions.Head, list[str]]:
    head = questions.Head(vectors, len(kept["names"]) + blank, weighted=False)
    head.load_state_dict(kept["state"])
    return head, kept["names"]
