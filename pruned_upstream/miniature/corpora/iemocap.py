"""IEMOCAP: five sessions of a woman and a man, four emotions.

The emotions are made of prosody alone (rate, pitch, melody, loudness): a score here shows that the plumbing holds, and
is no evidence that a model hears emotion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .. import speakers
from ..clip import Clip, Cue, Take
from ..plan import Plan, line_clip
from ..sentences import short_sentence

LABELS = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
# What an emotion does to a speaker's habits, and its gain in dB.
_PROSODY: dict[str, tuple[dict[str, Any], float]] = {
    "neu": ({"pitch": 0, "rate": 1.0, "range": 45}, 0.0),
    "hap": ({"pitch": 16, "rate": 1.1, "range": 85}, 2.0),
    "ang": ({"pitch": 8, "rate": 1.25, "range": 60}, 6.0),
    "sad": ({"pitch": -14, "rate": 0.78, "range": 15}, -6.0),
}
SESSIONS = 5


@dataclass(frozen=True)
class Sizes:
    """Sentences by each speaker in each emotion."""

    each: int


SIZES = {"demo": Sizes(each=9), "tiny": Sizes(each=1)}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Five sessions of one woman and one man, four emotions each told by pitch, pace and loudness."""
    clips: list[Clip] = []
    emotions: list[str] = []
    cast = iter(speakers.TRAIN)  # women and men in turn
    for session in range(1, SESSIONS + 1):
        for gender in "FM":
            speaker = next(cast)
            dialog = f"Ses{session:02d}{gender}_impro01"
            for i in range(sizes.each * len(LABELS)):
                emotion = list(LABELS)[i % len(LABELS)]
                prosody, gain = _PROSODY[emotion]
                cue = Cue(
                    speaker.line(short_sentence(rng), rng, **prosody), rng.uniform(0.1, 0.3), gain + rng.uniform(-2, 2)
                )
                path = f"Session{session}/sentences/wav/{dialog}/{dialog}_{gender}{i:03d}.wav"
                clips.append(line_clip(path, cue.line, rng, cues=(cue,)))
                emotions.append(emotion)
    return Plan(clips, lambda folder, takes: _annotate(folder, emotions, takes))


def _annotate(folder: Path, emotions: Sequence[str], takes: Sequence[Take]) -> None:
    sessions: dict[str, list[dict[str, str]]] = {f"Session{i}": [] for i in range(1, SESSIONS + 1)}
    for take, emotion in zip(takes, emotions, strict=True):
        path = Path(take.path)
        session = path.parts[0]
        dialog, _, _ = path.stem.rpartition("_")
        sessions[session].append({"path": take.path, "label": emotion, "speaker": path.stem.split("_")[0]})
        evaluation = folder / session / "dialog" / "EmoEvaluation" / f"{dialog}.txt"
        evaluation.parent.mkdir(parents=True, exist_ok=True)
        with open(evaluation, "a") as file:
            file.write(f"[0.0000 - {take.seconds:.4f}]\t{path.stem}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n")
    for held_out, entries in sessions.items():
        others = [entry for name, group in sessions.items() if name != held_out for entry in group]
        target = folder / "meta_data" / held_out
        target.mkdir(parents=True)
        for name, group in (("train", others), ("test", entries)):
            (target / f"{name}_meta_data.json").write_text(json.dumps({"labels": LABELS, "meta_data": group}))
