"""Real speech with labels. Words and phones of libri_spk are pseudo-labels, made by machine.

Its speakers are dealt once: from the first group students learn, and heads too; on the second settings are chosen; the
third is asked once, at the end.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

SAMPLE_RATE = 16000
WINDOW_SECONDS = 30  # what Whisper's encoder and its decoder take at once
SETS = ("libri_spk", "fsdd", "pv_keywords", "pv_coffee_ic")
SHARES = {"train": 0.7, "dev": 0.12, "test": 0.18}  # of the speakers
READ_ALOUD = (3.0, 10.0)  # seconds of recordings that are transcribed


@dataclass(frozen=True)
class Clip:
    """A recording; `label` is what a question asks of it, `phones` are (word, phone, start, length) in 10 ms."""

    path: Path
    seconds: float
    speaker: str = ""
    label: str = ""
    phones: tuple[tuple[str, str, int, int], ...] = ()

    def waveform(self) -> Tensor:
        import soundfile

        samples, rate = soundfile.read(self.path, dtype="float32")
        if rate != SAMPLE_RATE:
            raise ValueError(f"{self.path} has {rate} samples per second")
        return torch.from_numpy(samples)


class Speech:
    """The sets under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def missing(self) -> list[str]:
        return [name for name in SETS if not (self.root / name / "manifest.csv").is_file()]

    def read_speech(self, split: str) -> list[Clip]:
        """libri_spk's recordings of a split's speakers, in a fixed order."""
        return [clip for clip in self._libri if clip.speaker in self._split[split]]

    def to_transcribe(self, split: str, count: int) -> list[Clip]:
        """One recording a speaker, neither very short nor long."""
        first: dict[str, Clip] = {}
        for clip in self.read_speech(split):
            if READ_ALOUD[0] <= clip.seconds <= READ_ALOUD[1]:
                first.setdefault(clip.speaker, clip)
        return list(first.values())[:count]

    def with_phones(self, split: str, count: int) -> list[Clip]:
        return [clip for clip in self.read_speech(split) if clip.phones][:count]

    def joined(self, folder: Path) -> Path:
        """A folder with the training recordings, joined to windows: a window may be full of speech or hold little, as
        chance has it. What hears whole windows takes as long for one sentence as for four."""
        import soundfile

        path = folder / "joined"
        if path.exists():
            return path
        unfinished = folder / "joined.tmp"
        unfinished.mkdir(parents=True, exist_ok=True)
        generator = random.Random(0)
        clips = generator.sample(self.read_speech("train"), len(self.read_speech("train")))
        window, number = WINDOW_SECONDS * SAMPLE_RATE, 0
        while clips:
            wanted, parts = generator.random() * window, [clips.pop().waveform()]
            while clips and sum(map(len, parts)) < wanted:
                parts.append(clips.pop().waveform())
            whole = torch.cat(parts)[:window]
            soundfile.write(unfinished / f"{number:03}.flac", whole.numpy(), SAMPLE_RATE)
            number += 1
        unfinished.rename(path)
        return path

    def labelled(self, name: str, column: str, train: int, test: int) -> tuple[list[Clip], list[Clip]]:
        """Clips of another set, so many of each label to learn from and to ask, drawn by a fixed seed."""
        rows = [row for row in self._rows(name) if row[column]]
        random.Random(0).shuffle(rows)
        counts: dict[tuple[str, str], int] = {}
        splits: dict[str, list[Clip]] = {"train": [], "test": []}
        for row in rows:
            label = row[column]
            split = row.get("official_split") or next(
                (s for s, most in (("train", train), ("test", test)) if counts.get((label, s), 0) < most), "test"
            )
            if counts.get((label, split), 0) < {"train": train, "test": test}[split]:
                counts[label, split] = counts.get((label, split), 0) + 1
                splits[split].append(Clip(self.root / name / row["file"], float(row["dur"]), label=label))
        return splits["train"], splits["test"]

    def _rows(self, name: str) -> list[dict[str, str]]:
        with open(self.root / name / "manifest.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @cached_property
    def _libri(self) -> list[Clip]:
        lines = (self.root / "libri_spk" / "phones.jsonl").read_text(encoding="utf-8").splitlines()
        phones = {entry["file"]: tuple(map(tuple, entry["phones"])) for entry in map(json.loads, lines)}
        return [
            Clip(
                self.root / "libri_spk" / row["file"],
                float(row["dur"]),
                speaker=row["speaker"],
                phones=phones.get(row["file"], ()),
            )
            for row in sorted(self._rows("libri_spk"), key=lambda row: row["file"])
        ]

    @cached_property
    def _split(self) -> dict[str, set[str]]:
        speakers: Sequence[str] = sorted({clip.speaker for clip in self._libri}, key=int)
        order = random.Random(0).sample(speakers, len(speakers))
        found, start = {}, 0
        for split, share in SHARES.items():
            end = start + round(share * len(order))
            found[split] = set(order[start:end])
            start = end
        return found
