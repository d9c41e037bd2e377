"""What is asked of a student, and how the answer is read.

    word errors     Whisper's decoder reads the student's last hidden state in place of the teacher's, of whole windows
                    of 30 s; its words are held against what it writes from the teacher's
    layer residual  share of the variance of the teacher's layers that a linear map from the student's best layer does
                    not explain, fitted on speakers of the training split
    last layer      relative error of the last hidden state itself, no map between, of the same frames
    phones, words   named by a linear head on the last layer (pseudo-labels)
    speakers        who speaks in this second, of 16 voices; learned on the first half of a recording, asked on the
                    second
    digits, keywords, coffee    what is said; which drink is ordered

Heads are trained anew on the student (`new`), or on the teacher and put on the student unchanged (`reused`). All
hear whole windows; of what lies behind a recording, word errors alone know.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import race
from benchmarks.retention import questions
from benchmarks.retention.questions import Head, Items
from pruned_upstream.files import atomic_write
from pruned_upstream.model.encoder import Encoder

from .speech import SAMPLE_RATE, WINDOW_SECONDS, Clip, Speech
from .weights import Decoder

TRANSCRIBED = 16  # recordings, of as many speakers
TAUGHT, ASKED = 16, 10  # recordings with phones, of the training speakers and of the others
FRAME = 0.02
FRAMES_APART = 4
WORD_COUNT = 10
TEACHER_LAYERS = (2, 4, 6)
WINDOW = WINDOW_SECONDS * SAMPLE_RATE


class Student(NamedTuple):
    """How a model answers: its encoder's hidden states, and after them what its last prediction head makes of them."""

    encoder: Encoder

    def states(self, wav: Tensor) -> Tensor:  # (S,) -> (layers, T, d)
        found = self.encoder.extract([wav]).hidden_states
        if self.encoder.config.prediction_heads:
            found = [*found, self.encoder.prediction_heads[-1](found[-1])]
        return torch.cat(found)


class Interview:
    """Asks students in one split; the teacher first, whose answers and heads are kept in `folder`."""

    def __init__(self, speech: Speech, split: str, folder: Path) -> None:
        self.speech, self.split, self.folder = speech, split, folder
        self.kept = folder / f"teacher_{split}.pt"

    @torch.no_grad()
    def core(self, student: Student, *, is_teacher: bool = False) -> dict[str, float]:
        """Word errors, residuals and milliseconds."""
        import jiwer

        found: dict[str, Any] = {}
        taught, asked = (
            torch.cat([student.states(clip.waveform())[:, ::FRAMES_APART] for clip in clips], dim=1)
            for clips in (self.speech.with_phones("train", TAUGHT), self.speech.with_phones(self.split, ASKED))
        )
        if is_teacher:
            texts = self._transcripts(student)
            with atomic_write(self.kept) as temporary:
                torch.save({"taught": taught.half(), "asked": asked.half(), "texts": texts}, temporary)
        kept = torch.load(self.kept, weights_only=True)
        pairs = [
            (Items(x.transpose(0, 1).float(), []), Items(y.transpose(0, 1).float(), []))
            for x, y in ((taught, asked), (kept["taught"], kept["asked"]))
        ]
        found["layer residual"] = questions.layer_residual(*pairs, TEACHER_LAYERS)
        theirs = kept["asked"][-1].double()
        error = (asked[-1].double() - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum()
        found["last layer"] = 100 * error.item()
        texts = kept["texts"] if is_teacher else self._transcripts(student)
        found["word errors"] = 100 * jiwer.wer(kept["texts"], texts)
        return found | self._milliseconds(student)

    def layer_0(self) -> dict[str, float]:
        """The layer residual of what the transformer is given: what needs no layer at all."""
        kept = torch.load(self.kept, weights_only=True)
        both = [Items(kept[part].transpose(0, 1).float(), []) for part in ("taught", "asked")]
        first = [Items(items.vectors[:, :1], []) for items in both]
        return {"layer residual": questions.layer_residual((first[0], first[1]), (both[0], both[1]), TEACHER_LAYERS)}

    def _transcripts(self, student: Student) -> list[str]:
        decoder = Decoder(self.folder / "decoder")
        found = []
        for clip in self.speech.to_transcribe(self.split, TRANSCRIBED):
            wav = clip.waveform()
            states = student.states(torch.nn.functional.pad(wav, (0, WINDOW - len(wav))))
            found.append(_plain_words(decoder(states[-1])))
        return found

    def _milliseconds(self, student: Student) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        wav = 0.1 * torch.randn(WINDOW, generator=generator)
        (timing,) = race({"student": lambda: student.encoder.extract([wav])}, repeats=5, clock="cpu")
        return {"ms for a window": 1e3 * timing.median}

    def heads(self, student: Student, *, is_teacher: bool = False) -> dict[str, float]:
        """Accuracies in per cent of new heads and of the teacher's."""
        metrics: dict[str, float] = {}
        kept = {} if is_teacher else torch.load(self.folder / f"heads_{self.split}.pt", weights_only=True)
        for name, (train, test) in self._questions(student).items():
            metrics[f"{name}.new"], head, labels = questions.answer(train, test, weighted=False)
            if is_teacher:
                kept[name] = {"labels": labels, "state": head.state_dict()}
            reused = Head(train.vectors, len(kept[name]["labels"]), weighted=False)
            reused.load_state_dict(kept[name]["state"])
            metrics[f"{name}.reused"] = questions.accuracy(reused, test, kept[name]["labels"])
            metrics[f"{name}.items"] = len(test.labels)
        if is_teacher:
            with atomic_write(self.folder / f"heads_{self.split}.pt") as temporary:
                torch.save(kept, temporary)
        return metrics

    @torch.no_grad()
    def _questions(self, student: Student) -> dict[str, tuple[Items, Items]]:
        def hear(clips: Sequence[Clip]) -> list[Tensor]:  # (T, d) each
            return [student.states(clip.waveform())[-1] for clip in clips]

        taught, asked = self.speech.with_phones("train", TAUGHT), self.speech.with_phones(self.split, ASKED)
        of_taught, of_asked = hear(taught), hear(asked)
        frequent = {w for w, n in Counter(w for clip in taught for w, *_ in _words(clip)).items() if n >= WORD_COUNT}
        found = {
            "phones": (_phone_items(taught, of_taught), _phone_items(asked, of_asked)),
            "words": (_word_items(taught, of_taught, frequent), _word_items(asked, of_asked, frequent)),
            "speakers": (_pieces(taught, of_taught, first=True), _pieces(taught, of_taught, first=False)),
        }
        sets = {"digits": ("fsdd", "digit", 30, 10), "keywords": ("pv_keywords", "keyword", 15, 10)}
        sets["coffee"] = ("pv_coffee_ic", "coffeeDrink", 10, 5)
        for name, options in sets.items():
            train, test = self.speech.labelled(*options)
            found[name] = tuple(_items([s.mean(0) for s in hear(c)], [k.label for k in c]) for c in (train, test))
        return found


def _plain_words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split()) or "-"


def _items(vectors: Sequence[Tensor], labels: Sequence[str]) -> Items:
    return Items(torch.stack(list(vectors)).unsqueeze(1), list(labels))


def _phone_items(clips: Sequence[Clip], states: Sequence[Tensor]) -> Items:
    vectors, labels = [], []
    for clip, state in zip(clips, states, strict=True):
        for _, phone, start, length in clip.phones:
            middle = int((start + length / 2) * 0.01 / FRAME)
            if phone != "SIL" and middle < len(state):
                vectors.append(state[middle])
                labels.append(phone.rstrip("012"))
    return _items(vectors, labels)


def _words(clip: Clip) -> list[tuple[str, int, int]]:
    """(word, start, end) in 10 ms, neighbouring phones of one word together; the same word twice in a row is one."""
    found: list[tuple[str, int, int]] = []
    for word, phone, start, length in clip.phones:
        if phone == "SIL":
            continue
        if found and found[-1][0] == word and found[-1][2] == start:
            found[-1] = (word, found[-1][1], start + length)
        else:
            found.append((word, start, start + length))
    return found


def _word_items(clips: Sequence[Clip], states: Sequence[Tensor], frequent: set[str]) -> Items:
    vectors, labels = [], []
    for clip, state in zip(clips, states, strict=True):
        for word, start, end in _words(clip):
            first, last = int(start * 0.01 / FRAME), max(int(start * 0.01 / FRAME) + 1, int(end * 0.01 / FRAME))
            if word in frequent and first < len(state):
                vectors.append(state[first:last].mean(0))
                labels.append(word)
    return _items(vectors, labels)


def _pieces(clips: Sequence[Clip], states: Sequence[Tensor], *, first: bool) -> Items:
    width = round(1 / FRAME)
    vectors, labels = [], []
    for clip, state in zip(clips, states, strict=True):
        half = len(state) // 2
        part = state[:half] if first else state[half:]
        for start in range(0, max(1, len(part) - width + 1), width):
            vectors.append(part[start : start + width].mean(0))
            labels.append(clip.speaker)
    return _items(vectors, labels)
