"""The speech of the benchmark: what teacher and students learn from, and what they are asked about.

Recorded by `pruned_upstream.miniature`. The training voices say everything that is learned from, by the teacher, its
students and the heads on them. Two further groups of voices are heard by nobody before they are asked: settings are
chosen on those of `dev`, and those of `test` give the tables. Who speaks is asked of the training voices, in sentences
of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import soundfile
import torch
from torch import Tensor

from pruned_upstream.files import write_text
from pruned_upstream.miniature import speakers
from pruned_upstream.miniature.clip import Clip, Spoken, Take
from pruned_upstream.miniature.corpora.fluent_speech_commands import INTENTS
from pruned_upstream.miniature.corpora.speech_commands import KEYWORDS
from pruned_upstream.miniature.phones import SILENCE, is_pause
from pruned_upstream.miniature.plan import line_clip
from pruned_upstream.miniature.sentences import sentence
from pruned_upstream.miniature.studio import record

SEED = 20_26
SAMPLE_RATE = 16_000
HOP, FIELD = 320, 400  # samples from frame to frame, and under a frame
TAKES = "takes.json"

TAUGHT = 100  # sentences a training voice, for teacher and students
# split -> (voices, sentences a voice); "known" are other sentences of the training voices
SENTENCES = {
    "train": (speakers.TRAIN, 5),
    "known dev": (speakers.TRAIN, 1),
    "known test": (speakers.TRAIN, 6),
    "dev": (speakers.DEV, 8),
    "test": (speakers.TEST, 18),
}
# split -> (voices, times each of them says every intent, and every keyword)
COMMANDS = {"train": (speakers.TRAIN[::3], 1, 2), "dev": (speakers.DEV, 1, 2), "test": (speakers.TEST, 3, 6)}


@dataclass(frozen=True)
class Utterance:
    """A recording: what it is said to be (a voice, an intent, a keyword), and what is spoken when."""

    path: Path
    label: str
    spoken: Spoken

    def waveform(self) -> Tensor:
        """(S,) at 16 kHz."""
        samples, _ = soundfile.read(self.path, dtype="float32")
        return torch.from_numpy(samples)

    def frame_phones(self, frames: int) -> list[str]:
        """The phone, without stress, at the middle of each frame; SIL where nobody speaks."""
        names, phones = [], iter(self.spoken.phones)
        phone = next(phones, None)
        for t in range(frames):
            second = (t * HOP + FIELD / 2) / SAMPLE_RATE
            while phone is not None and phone.end <= second:
                phone = next(phones, None)
            silent = phone is None or second < phone.start or is_pause(phone.label)
            names.append(SILENCE if silent else phone.label.rstrip("012"))
        return names


def taught(root: Path) -> Path:
    """A manifest of the speech that teacher and students learn from, recorded under `root` unless it is there.

    Beside it lie the phone of each frame as a number (train.km), and the phones in the order of their numbers.
    """
    manifest = root / "train.tsv"
    if not manifest.exists():
        spoken = _recorded(root, *_sentences("taught", speakers.TRAIN, TAUGHT))
        lengths = [len(utterance.waveform()) for utterance in spoken]
        phones = [u.frame_phones((n - FIELD) // HOP + 1) for u, n in zip(spoken, lengths, strict=True)]
        names = sorted({name for of_utterance in phones for name in of_utterance})
        number = {name: str(i) for i, name in enumerate(names)}
        lines = [" ".join(number[name] for name in of_utterance) for of_utterance in phones]
        write_text(root / "phones.txt", "\n".join(names) + "\n")
        write_text(manifest.with_suffix(".km"), "\n".join(lines) + "\n")
        paths = [f"{u.path.relative_to(root)}\t{n}" for u, n in zip(spoken, lengths, strict=True)]
        write_text(manifest, "\n".join([".", *paths]) + "\n")
    return manifest


def recordings(root: Path, split: str = "test") -> dict[str, list[Utterance]]:
    """What heads learn from and what they are asked in a split, recorded under `root` unless it is there.

    Returns:
        Utterances by kind and role: `sentences`, `intents` and `keywords`, each `/train` and `/asked`, and
        `sentences/known` for the question who speaks.
    """
    sets = {"sentences/train": "sentences/train", "sentences/known": f"sentences/known {split}"}
    sets |= {f"{kind}/train": f"{kind}/train" for kind in ("intents", "keywords")}
    sets |= {f"{kind}/asked": f"{kind}/{split}" for kind in ("sentences", "intents", "keywords")}
    plans = _plans()
    return {role: _recorded(root / name, *plans[name]) for role, name in sets.items()}


def recordings_of(folder: Path, name: str) -> list[Utterance]:
    """One of the sets, such as "sentences/train", recorded in `folder` unless it is there."""
    return _recorded(folder, *_plans()[name])


def _recorded(folder: Path, clips: list[Clip], labels: list[str]) -> list[Utterance]:
    if not (folder / TAKES).exists():
        takes = record(clips, folder)
        write_text(folder / TAKES, json.dumps([take.to_dict() for take in takes]))
    takes = [Take.from_dict(tree) for tree in json.loads((folder / TAKES).read_text())]
    return [Utterance(folder / take.path, label, take.spoken[0]) for take, label in zip(takes, labels, strict=True)]


def _plans() -> dict[str, tuple[list[Clip], list[str]]]:
    plans = {f"sentences/{name}": _sentences(name, *plan) for name, plan in SENTENCES.items()}
    for name, (voices, intent_times, keyword_times) in COMMANDS.items():
        intents = [(texts, "/".join(intent)) for intent, texts in INTENTS.items()] * intent_times
        keywords = [((word,), word) for word in KEYWORDS] * keyword_times
        plans[f"intents/{name}"] = _commands(f"intents/{name}", voices, intents)
        plans[f"keywords/{name}"] = _commands(f"keywords/{name}", voices, keywords)
    return plans


def _sentences(name: str, voices: tuple[speakers.Speaker, ...], count: int) -> tuple[list[Clip], list[str]]:
    rng = Random(f"{name}/{SEED}")
    clips, labels = [], []
    for voice, number in _each(voices, count):
        line = voice.line(sentence(rng), rng, pitch=rng.randint(-8, 8), rate=rng.uniform(0.85, 1.2))
        clips.append(line_clip(f"{voice.variant}-{number}.flac", line, rng))
        labels.append(voice.variant)
    return clips, labels


def _commands(
    name: str, voices: tuple[speakers.Speaker, ...], commands: list[tuple[tuple[str, ...], str]]
) -> tuple[list[Clip], list[str]]:
    rng = Random(f"{name}/{SEED}")
    clips, labels = [], []
    for voice in voices:
        for number, (texts, label) in enumerate(commands):
            line = voice.line(rng.choice(texts), rng, pitch=rng.randint(-8, 8), rate=rng.uniform(0.85, 1.1))
            clips.append(line_clip(f"{voice.variant}-{number}.flac", line, rng))
            labels.append(label)
    return clips, labels


def _each(voices: tuple[speakers.Speaker, ...], count: int) -> Iterator[tuple[speakers.Speaker, int]]:
    return ((voice, number) for voice in voices for number in range(count))
