"""VoxCeleb1: speakers of SID and SV, in several "videos" each.

A video has its own noise, level and mood, and no two of SID's splits share one, so that the room does not give the
speaker away. SV's test speakers (ids from 10270, as officially) are unknown in its training; SID knows everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from .. import speakers
from ..clip import Clip, Cue, Take
from ..plan import Plan
from ..sentences import sentence
from ..speakers import Speaker

SPLIT_LIST, TRIAL_LIST = "veri_test_class.txt", "voxceleb1_test_v2.txt"
_WORDS = 9  # at least, in a clip: more than the two seconds that SV wants after the silence is cut
# SID's part of a speaker's videos, in turn.
_PARTS = (1, 1, 1, 2, 3)


@dataclass(frozen=True)
class Sizes:
    """Speakers of the dev and of the test folder, clips of each video by SID's split, SV's trials of each kind."""

    dev: int
    test: int
    clips: dict[int, int]
    trials: int


SIZES = {
    "demo": Sizes(dev=16, test=8, clips={1: 3, 2: 2, 3: 4}, trials=200),
    "tiny": Sizes(dev=2, test=2, clips={1: 1, 2: 1, 3: 1}, trials=4),
}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Several videos of each speaker, the split of SID, and the trials of SV."""
    clips: list[Clip] = []
    split_list: list[str] = []
    for half, pool, first_id in (
        ("dev", speakers.TRAIN[: sizes.dev], 10001),
        ("test", speakers.TEST[: sizes.test], 10270),
    ):
        for number, speaker in enumerate(pool, start=first_id):
            for video, part in enumerate(_PARTS):
                names = [f"id{number}/video{video:06d}/{i + 1:05d}.wav" for i in range(sizes.clips[part])]
                clips += _video(speaker, [f"{half}/wav/{name}" for name in names], rng)
                split_list += [f"{part} {name}" for name in names]
    trials = _trials([clip.path for clip in clips if clip.path.startswith("test/")], sizes.trials, rng)

    def annotate(folder: Path, takes: Sequence[Take]) -> None:
        (folder / SPLIT_LIST).write_text("\n".join(split_list) + "\n")
        (folder / TRIAL_LIST).write_text("\n".join(trials) + "\n")

    return Plan(clips, annotate)


def _video(speaker: Speaker, paths: list[str], rng: Random) -> list[Clip]:
    mood: dict[str, Any] = {"pitch": rng.randint(-4, 4), "rate": rng.uniform(0.9, 1.1), "range": rng.randint(35, 65)}
    room: dict[str, Any] = {"snr": rng.uniform(20, 40), "colour": rng.uniform(0, 2)}
    gain = rng.uniform(-6, 3)
    clips = []
    for path in paths:
        text = sentence(rng)
        while len(text.split()) < _WORDS:
            text += " " + sentence(rng)
        cue = Cue(speaker.line(text, rng, **mood), rng.uniform(0.05, 0.2), gain)
        clips.append(Clip(path, (cue,), tail=rng.uniform(0.05, 0.2), seed=rng.getrandbits(32), **room))
    return clips


def _trials(paths: list[str], count: int, rng: Random) -> list[str]:
    """`count` pairs of one speaker, each from two videos, and as many of two speakers: label, clip, clip."""
    pairs: dict[int, list[str]] = {0: [], 1: []}
    for one, other in combinations((path.removeprefix("test/wav/") for path in paths), 2):
        (speaker, video, _), (other_speaker, other_video, _) = one.split("/"), other.split("/")
        if speaker != other_speaker or video != other_video:
            pairs[int(speaker == other_speaker)].append(f"{int(speaker == other_speaker)} {one} {other}")
    return [trial for kind in (1, 0) for trial in rng.sample(pairs[kind], count)]
