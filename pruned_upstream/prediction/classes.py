"""Keyword, speaker, intent and emotion: one class per recording, with probabilities.

The names of the classes come from where s3prl's expert takes them: KS and SID have them in code, IC in the training
table of the corpus (in the order in which they first occur), ER in the metadata of the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..s3prl_plugin.parts.iemocap import read_fold
from . import recordings
from .experiment import Experiment
from .recordings import Reader
from .trained import Features, Projected, load_weights

SPEAKERS = 1251  # of VoxCeleb1 (s3prl, downstream/voxceleb1/dataset.py)
INTENT_SLOTS = ("action", "object", "location")

Classes = Mapping[str, Sequence[str]]
"""What is asked -> the possible answers, in the order of the head's outputs; IC asks three things at once."""


@dataclass(frozen=True)
class Choice:
    """The answer for one clip: for all that was asked, the classes with their probabilities, the likeliest first."""

    clip: str
    probabilities: Mapping[str, Mapping[str, float]]

    def best(self, asked: str | None = None) -> str:
        """The likeliest class of what was asked; of the first thing asked by default."""
        of = self.probabilities[asked or next(iter(self.probabilities))]
        return next(iter(of))

    def lines(self, top: int) -> list[str]:
        """The `top` likeliest classes of each question, one line per question."""
        said = []
        for asked, of in self.probabilities.items():
            likeliest = ", ".join(f"{name} {probability:.3f}" for name, probability in list(of.items())[:top])
            said.append(f"{self.clip}  {asked}: {likeliest}")
        return said

    def tree(self, top: int) -> dict[str, Any]:
        """The answers and the `top` probabilities, as what JSON holds."""
        answers = {
            asked: {"answer": self.best(asked), "probabilities": dict(list(of.items())[:top])}
            for asked, of in self.probabilities.items()
        }
        return {"clip": self.clip, **answers}


class Classifier:
    """KS, SID, IC and ER; several trainings (ER's folds) answer with the mean of their probabilities."""

    least_clips = 1

    def __init__(self, experiments: Sequence[Experiment], features: Sequence[Features]) -> None:
        self.classes = _CLASSES[experiments[0].task](experiments[0])
        self.features = features
        self.heads = []
        for experiment, own in zip(experiments, features, strict=True):
            head = Projected(experiment, own, sum(map(len, self.classes.values())))
            load_weights(
                head, experiment.weights["Downstream"], f"the head in {experiment.source}", unused=("best_score",)
            )
            self.heads.append(head.to(own.device).eval())
        self.reader = _reader(experiments[0].task)

    @torch.inference_mode()
    def answers(self, clips: Sequence[str | Path]) -> list[Choice]:
        """The classes of each recording (KS, SID, IC, ER)."""
        return [self._answer(clip) for clip in clips]

    def _answer(self, clip: str | Path) -> Choice:
        wav = recordings.read(clip, self.reader)
        logits = [head(own.of(wav, str(clip))) for head, own in zip(self.heads, self.features, strict=True)]
        probabilities, start = {}, 0
        for asked, names in self.classes.items():
            of = torch.stack([each[start : start + len(names)].softmax(0) for each in logits]).mean(0)
            order = of.argsort(descending=True, stable=True).tolist()
            probabilities[asked] = {names[i]: float(of[i]) for i in order}
            start += len(names)
        return Choice(str(clip), probabilities)


def _reader(task: str) -> Reader:
    if task != "ks":
        return recordings.plain
    from s3prl.downstream.speech_commands.dataset import EFFECTS

    return lambda path: recordings.through(path, EFFECTS)


def _keywords(experiment: Experiment) -> Classes:
    from s3prl.downstream.speech_commands.dataset import CLASSES

    return {"keyword": tuple(CLASSES)}


def _speakers(experiment: Experiment) -> Classes:
    from s3prl.downstream.voxceleb1.dataset import SpeakerClassifiDataset

    return {"speaker": tuple(SpeakerClassifiDataset.label2speaker(range(SPEAKERS)))}


def _intents(experiment: Experiment) -> Classes:
    import pandas

    table = Path(str(experiment.section("datarc").get("file_path"))) / "data/train_data.csv"
    try:
        rows = pandas.read_csv(table)
        return {slot: tuple(map(str, dict.fromkeys(rows[slot]))) for slot in INTENT_SLOTS}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(_lost("intents", table)) from error


def _emotions(experiment: Experiment) -> Classes:
    data = experiment.section("datarc")
    fold = data.get("test_fold") or experiment.args.get("downstream_variant") or "fold1"
    listing = Path(str(data.get("meta_data"))) / str(fold).replace("fold", "Session") / "test_meta_data.json"
    if not listing.is_file():
        raise DataError(_lost("emotions", listing))
    return {"emotion": read_fold(listing).emotions}


def _lost(what: str, place: Path) -> str:
    return f"the names of the {what} stand in {place}, which cannot be read; name the folder of the corpora with --data"


_CLASSES: Mapping[str, Callable[[Experiment], Classes]] = {
    "ks": _keywords,
    "sid": _speakers,
    "ic": _intents,
    "er": _emotions,
}
