"""Words, phonemes, and words with slots: what s3prl's CTC experts read from the best path."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import DataError
from ..s3prl_plugin.parts import vocabularies
from ..superb.configuration import merge
from . import recordings
from .experiment import Experiment
from .trained import Features, expert_module, load_weights


@dataclass(frozen=True)
class Text:
    """What is said in one clip: words of ASR, phonemes of PR."""

    clip: str
    text: str

    def lines(self, top: int) -> list[str]:
        """The recording and its text."""
        return [f"{self.clip}  {self.text}"]

    def tree(self, top: int) -> dict[str, Any]:
        """The same as what JSON holds."""
        return {"clip": self.clip, "text": self.text}


@dataclass(frozen=True)
class Slots:
    """What is said in one clip, and which of its words fill which slot, in the order of the slots in the sentence."""

    clip: str
    text: str
    slots: tuple[tuple[str, str], ...]

    def lines(self, top: int) -> list[str]:
        """The recording, its text and its slots."""
        filled = ", ".join(f"{name}={value}" for name, value in self.slots)
        return [f"{self.clip}  {self.text}  [{filled}]"]

    def tree(self, top: int) -> dict[str, Any]:
        """The same as what JSON holds."""
        return {
            "clip": self.clip,
            "text": self.text,
            "slots": [{"slot": name, "value": value} for name, value in self.slots],
        }


class Transcriber:
    """ASR, PR and SF. Decodes with a language model where the experiment's configuration names one."""

    least_clips = 1

    def __init__(self, experiments: Sequence[Experiment], features: Sequence[Features]) -> None:
        (experiment,), (self.features,) = experiments, features
        self.task = experiment.task
        with tempfile.TemporaryDirectory() as folder:
            self.expert: Any = self._expert(experiment, Path(folder))
        load_weights(self.expert, experiment.weights["Downstream"], f"the head in {experiment.source}")
        self.expert.to(self.features.device).eval()

    def _expert(self, experiment: Experiment, folder: Path) -> nn.Module:
        config = dict(experiment.config["downstream_expert"])
        merge(config, _vocabulary(experiment, folder))
        try:
            return expert_module(experiment.downstream).DownstreamExpert(
                self.features.dim, self.features.rate, downstream_expert=config, expdir=str(folder)
            )
        except OSError as error:
            raise DataError(
                f"the symbols of {experiment.source} stand in {error.filename}, which cannot be read; name the folder "
                "of the corpora with --data"
            ) from error

    @torch.inference_mode()
    def answers(self, clips: Sequence[str | Path]) -> list[Text | Slots]:
        """The text of each recording (PR, ASR), with its slots (SF)."""
        return [self._answer(clip) for clip in clips]

    def _answer(self, clip: str | Path) -> Text | Slots:
        features = self.features.of(recordings.read(clip, recordings.plain), str(clip))
        if self.task == "asr":
            (words,) = self.expert.inference([features], [])
            return Text(str(clip), words)
        said = self._best_path(features)
        return slots_in(said, str(clip)) if self.task == "sf" else Text(str(clip), said)

    def _best_path(self, features: torch.Tensor) -> str:
        """As `forward` of s3prl's downstream/ctc/expert.py, which wants the truth beside it."""
        expert, tokenizer = self.expert, self.expert.tokenizer
        logits, _ = expert.model(expert.projector(features.unsqueeze(0)), torch.IntTensor([len(features)]))
        tokens = logits[0].argmax(-1).unique_consecutive().tolist()
        return tokenizer.decode([token for token in tokens if token not in (tokenizer.pad_idx, tokenizer.eos_idx)])


def slots_in(said: str, clip: str) -> Slots:
    """Words and slots of SF's output, `PLAY B-artist QUEEN E-artist`, as s3prl's own metrics parse it.

    An opening mark without its closing one, or the reverse, is no slot and no word.
    """
    from s3prl.downstream.ctc.metric import parse

    _, text, _, found = parse(said, "")
    slots = [pair.rpartition(":") for pair in found.split(";") if pair]
    return Slots(clip, " ".join(text.split()), tuple((name, " ".join(value.split())) for value, _, name in slots))


def _vocabulary(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The symbol file where the one that was trained with is gone; SUPERB's symbols are the same for everybody."""
    if experiment.task == "asr":
        named = experiment.section("datarc").get("dict_path")
        if named is None or Path(named).is_file():
            return {}
        return {"datarc": {"dict_path": str(vocabularies.write_asr_dictionary(folder / "char.dict"))}}
    symbols = experiment.section("text")
    if Path(str(symbols.get("vocab_file"))).is_file():
        return {}
    write = {"word": vocabularies.write_phonemes, "character-slot": vocabularies.write_characters}.get(symbols["mode"])
    return {} if write is None else {"text": {"vocab_file": str(write(folder / "vocabulary.txt"))}}
