"""The speech of the benchmark: sentences, commands and keywords, in voices that learn the heads and in others.

Recorded by `minisuperb`, on a seed of its own: no sentence was made for training teacher or students. The training
voices are the teacher's; the test voices are nobody's, but for the question who speaks.
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

from pruned_upstream.files import atomic_write
from pruned_upstream.minisuperb import speakers
from pruned_upstream.minisuperb.clip import Clip, Spoken, Take
from pruned_upstream.minisuperb.corpora.fluent_speech_commands import INTENTS
from pruned_upstream.minisuperb.corpora.speech_commands import KEYWORDS
from pruned_upstream.minisuperb.plan import line_clip
from pruned_upstream.minisuperb.sentences import sentence
from pruned_upstream.minisuperb.studio import record

SEED = 20_26
SAMPLE_RATE = 16_000
TAKES = "takes.json"

# set -> (voices, sentences a voice); "known" are other sentences of the training voices
SENTENCES = {"train": (speakers.TRAIN, 12), "known": (speakers.TRAIN, 6), "test": (speakers.DEV + speakers.TEST, 20)}
# set -> (voices, times each of them says every intent, and every keyword)
COMMANDS = {"train": (speakers.TRAIN, 1, 2), "test": (speakers.DEV + speakers.TEST, 4, 8)}


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


def recordings(root: Path) -> dict[str, list[Utterance]]:
    """All sets by name (`sentences/train`, `intents/test`, ...), recorded under `root` unless they are there."""
    sets: dict[str, list[Utterance]] = {}
    for name, (clips, labels) in _plans().items():
        folder = root / name
        if not (folder / TAKES).exists():
            takes = record(clips, folder)
            with atomic_write(folder / TAKES) as temporary:
                temporary.write_text(json.dumps([take.to_dict() for take in takes]))
        takes = [Take.from_dict(tree) for tree in json.loads((folder / TAKES).read_text())]
        sets[name] = [
            Utterance(folder / take.path, label, take.spoken[0]) for take, label in zip(takes, labels, strict=True)
        ]
    return sets


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
