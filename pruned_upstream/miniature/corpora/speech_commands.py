"""Speech Commands v0.01: its thirty words, one second each, and its test set of twelve classes.

The readers take a speaker to train or dev by the hash of the speaker's name (tensorflow/tensorflow,
tensorflow/examples/speech_commands/input_data.py, which_set); the names here are chosen so that it falls as planned.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Cue, Take
from ..plan import Plan, line_clip
from ..speakers import Speaker

KEYWORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
OTHER_WORDS = [
    "bed", "bird", "cat", "dog", "eight", "five", "four", "happy", "house", "marvin", "nine", "one", "seven", "sheila",
    "six", "three", "tree", "two", "wow", "zero",
]  # fmt: skip
_BUCKETS = 2**27 - 1  # of the hash


@dataclass(frozen=True)
class Sizes:
    """Speakers, takes of each keyword by each, other words by each; noises; `_silence_` clips of the test set."""

    train: tuple[int, int, int]
    dev: tuple[int, int, int]
    test: tuple[int, int, int]
    noises: int
    noise_seconds: float
    test_silences: int


SIZES = {
    "demo": Sizes(train=(44, 2, 8), dev=(10, 1, 3), test=(14, 5, 6), noises=6, noise_seconds=20.0, test_silences=70),
    "tiny": Sizes(train=(3, 1, 2), dev=(2, 1, 1), test=(2, 1, 1), noises=2, noise_seconds=2.0, test_silences=2),
}


def plan_train(sizes: Sizes, rng: Random) -> Plan:
    """Keywords, other words and noises, with the lists of the dev and test clips."""
    clips: list[Clip] = []
    for pool, (count, takes, others), share in (
        (speakers.TRAIN, sizes.train, (20, 100)),
        (speakers.DEV, sizes.dev, (0, 10)),
    ):
        for speaker in pool[:count]:
            name = _name(speaker, share)
            words = KEYWORDS * takes + rng.sample(OTHER_WORDS, others)
            clips += _spoken(speaker, name, words, words, rng)
    for i in range(sizes.noises):
        clips.append(_noise(f"_background_noise_/noise_{i}.wav", sizes.noise_seconds, rng))
    return Plan(clips, _nothing_to_add)


def plan_test(sizes: Sizes, rng: Random) -> Plan:
    """The test set of twelve classes: ten keywords, unknown words and silence."""
    clips: list[Clip] = []
    count, takes, others = sizes.test
    for speaker in speakers.TEST[:count]:
        words = KEYWORDS * takes + rng.sample(OTHER_WORDS, others)
        classes = [word if word in KEYWORDS else "_unknown_" for word in words]
        clips += _spoken(speaker, _name(speaker, (10, 20)), words, classes, rng)
    for i in range(sizes.test_silences):
        clips.append(_noise(f"_silence_/{i:08x}_nohash_0.wav", 1.0, rng))
    return Plan(clips, _nothing_to_add)


def _spoken(speaker: Speaker, name: str, words: Sequence[str], folders: Sequence[str], rng: Random) -> list[Clip]:
    clips = []
    number: Counter[str] = Counter()
    for word, folder in zip(words, folders, strict=True):
        line = speaker.line(word, rng, pitch=rng.randint(-8, 8), rate=rng.uniform(0.75, 1.05))
        path = f"{folder}/{name}_nohash_{number[folder]}.wav"
        number[folder] += 1
        cue = Cue(line, rng.uniform(0.05, 0.2), gain=rng.uniform(-6, 3))
        clips.append(line_clip(path, line, rng, cues=(cue,), seconds=1.0, snr=rng.uniform(15, 40)))
    return clips


def _noise(path: str, seconds: float, rng: Random) -> Clip:
    return Clip(path, seconds=seconds, snr=rng.uniform(5, 40), colour=rng.uniform(0, 2), seed=rng.getrandbits(32))


def _name(speaker: Speaker, share: tuple[int, int]) -> str:
    """Eight hexadecimal digits whose hash puts the speaker into the given percentage range."""
    for attempt in range(1000):
        name = hashlib.sha1(f"{speaker.variant}/{attempt}".encode()).hexdigest()[:8]
        percentage = int(hashlib.sha1(name.encode()).hexdigest(), 16) % (_BUCKETS + 1) * (100.0 / _BUCKETS)
        if share[0] <= percentage < share[1]:
            return name
    raise AssertionError("a range of ten percent is missed a thousand times in a row")


def _nothing_to_add(folder: Path, takes: Sequence[Take]) -> None:
    """The folders' names say it all."""
