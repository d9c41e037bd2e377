"""Fluent Speech Commands: what to do with what in which room, in sentences of our own.

Every intent is said in every split, in either of its two wordings.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Take
from ..plan import Plan, line_clip

# (action, object, location) -> ways to say it.
INTENTS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("activate", "lights", room): (f"turn on the lights in the {room}", f"lights on in the {room}")
    for room in ("kitchen", "bedroom", "washroom")
}
INTENTS |= {
    ("deactivate", "lights", room): (f"turn off the lights in the {room}", f"make it dark in the {room}")
    for room in ("kitchen", "bedroom", "washroom")
}
INTENTS |= {
    ("increase", "volume", "none"): ("turn up the volume", "I can hardly hear that"),
    ("decrease", "volume", "none"): ("turn down the volume", "that is far too loud"),
    ("increase", "heat", "kitchen"): ("heat up the kitchen", "the kitchen is too cold"),
    ("decrease", "heat", "kitchen"): ("cool down the kitchen", "the kitchen is too hot"),
    ("bring", "juice", "none"): ("get me some juice", "I would like a glass of juice"),
    ("bring", "newspaper", "none"): ("fetch the newspaper", "bring me the newspaper please"),
    ("bring", "shoes", "none"): ("get my shoes", "bring me my shoes please"),
    ("activate", "music", "none"): ("play some music", "put a song on"),
}


@dataclass(frozen=True)
class Sizes:
    """Per split: (speakers, times each of them says every intent)."""

    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]


SIZES = {
    "demo": Sizes(train=(44, 1), valid=(10, 1), test=(14, 2)),
    "tiny": Sizes(train=(2, 1), valid=(1, 1), test=(1, 1)),
}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Commands of three slots by speakers of each split, and the tables that name their intents."""
    clips: list[Clip] = []
    rows: dict[str, list[tuple[str, ...]]] = {}
    for split, pool, (count, times) in (
        ("train", speakers.TRAIN, sizes.train),
        ("valid", speakers.DEV, sizes.valid),
        ("test", speakers.TEST, sizes.test),
    ):
        rows[split] = []
        for speaker in pool[:count]:
            for i, intent in enumerate(list(INTENTS) * times):
                text = rng.choice(INTENTS[intent])
                path = f"wavs/speakers/{speaker.variant}/{split}-{speaker.variant}-{i:03d}.wav"
                line = speaker.line(text, rng, pitch=rng.randint(-6, 6), rate=rng.uniform(0.9, 1.15))
                clips.append(line_clip(path, line, rng))
                rows[split].append((path, speaker.variant, text, *intent))

    def annotate(folder: Path, takes: Sequence[Take]) -> None:
        (folder / "data").mkdir()
        for split, lines in rows.items():
            with open(folder / "data" / f"{split}_data.csv", "w", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(("", "path", "speakerId", "transcription", "action", "object", "location"))
                table.writerows((i, *line) for i, line in enumerate(lines))

    return Plan(clips, annotate)
