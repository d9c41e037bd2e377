"""Two speakers taking turns, with silences and overlap between them, as kaldi folders with an RTTM beside them.

LibriMix, the official corpus, lays two whole utterances over each other; turns make the same task with shorter files.
There is no wav.scp, whose absolute paths would tie the folder to its place: s3prl then takes the files of `wav`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Cue, Take
from ..plan import Plan
from ..sentences import sentence
from ..speakers import Speaker

# No line is shorter than twice the overlap, so that nobody speaks over himself.
_OVERLAP, _PAUSE = 0.7, 1.0


@dataclass(frozen=True)
class Sizes:
    """Recordings of each split, turns of each."""

    train: int
    dev: int
    test: int
    turns: tuple[int, int]


SIZES = {
    "demo": Sizes(train=120, dev=8, test=24, turns=(2, 4)),
    "tiny": Sizes(train=2, dev=1, test=1, turns=(3, 3)),
}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Two speakers per recording, in turns that overlap now and then, with the segments Kaldi's way."""
    clips: list[Clip] = []
    turns: list[list[str]] = []  # who speaks each cue of each clip
    for split, pool, count in (
        ("train", speakers.TRAIN, sizes.train),
        ("dev", speakers.DEV, sizes.dev),
        ("test", speakers.TEST, sizes.test),
    ):
        for i in range(count):
            pair = rng.sample(pool, 2)
            cues, who = _conversation(pair, rng.randint(*sizes.turns), rng)
            recording = f"{pair[0].variant}-{pair[1].variant}-{i:03d}"
            clips.append(
                Clip(
                    f"{split}/wav/{recording}.wav",
                    cues,
                    tail=rng.uniform(0.2, 0.8),
                    snr=rng.uniform(25, 40),
                    seed=rng.getrandbits(32),
                )
            )
            turns.append(who)
    return Plan(clips, lambda folder, takes: _annotate(folder, turns, takes))


def _conversation(pair: Sequence[Speaker], count: int, rng: Random) -> tuple[tuple[Cue, ...], list[str]]:
    cues: list[Cue] = []
    who: list[str] = []
    speaker, other = pair
    for turn in range(count):
        changed = turn > 0 and (turn == 1 or rng.random() < 0.8)
        if changed:
            speaker, other = other, speaker
        lowest = -_OVERLAP if changed else 0.2
        gap = rng.uniform(0.2, 0.8) if turn == 0 else rng.uniform(lowest, _PAUSE)
        text = sentence(rng)
        while len(text.split()) < 6:
            text = sentence(rng)
        cues.append(Cue(speaker.line(text, rng), gap, gain=rng.uniform(-3, 3)))
        who.append(speaker.variant)
    return tuple(cues), who


def _annotate(folder: Path, turns: Sequence[Sequence[str]], takes: Sequence[Take]) -> None:
    files: dict[Path, list[str]] = defaultdict(list)
    utterances: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for take, who in zip(takes, turns, strict=True):
        split, recording = folder / Path(take.path).parts[0], Path(take.path).stem
        files[split / "reco2dur"].append(f"{recording} {take.seconds:.4f}")
        for i, (speaker, spoken) in enumerate(zip(who, take.spoken, strict=True)):
            utterance = f"{speaker}-{recording}-{i:02d}"
            files[split / "segments"].append(f"{utterance} {recording} {spoken.start:.2f} {spoken.end:.2f}")
            files[split / "utt2spk"].append(f"{utterance} {speaker}")
            utterances[split, speaker].append(utterance)
            duration = spoken.end - spoken.start
            files[split / "rttm"].append(
                f"SPEAKER {recording} 1 {spoken.start:.2f} {duration:.2f} <NA> <NA> {speaker} <NA> <NA>"
            )
    for (split, speaker), names in utterances.items():
        files[split / "spk2utt"].append(f"{speaker} {' '.join(names)}")
    for path, lines in files.items():
        ordered = lines if path.name == "rttm" else sorted(lines)
        path.write_text("\n".join(ordered) + "\n")
