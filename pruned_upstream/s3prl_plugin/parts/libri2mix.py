"""Kaldi folders for speaker diarization, from Libri2Mix and the LibriSpeech turns that LibriMix ships.

SUPERB's recipe: the 16 kHz "max" mixtures with noise-free speech, speaker turns from LibriMix's metadata/LibriSpeech
(facts from scripts/prepare_diarization.py of the LibriMix fork that s3prl's documentation names).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from ...errors import DataError
from ...files import write_text
from ...model.config import SAMPLE_RATE

TURN_FILES = {"train": "train_clean_100.rttm", "dev": "dev_clean.rttm", "test": "test_clean.rttm"}
# LibriMix's names of the LibriSpeech parts that are mixed; older versions called the lists by the split alone
PARTS = {"train": "train-100", "dev": "dev", "test": "test"}
MIXTURES = "wav16k/max/metadata/mixture_{part}_mix_both.csv"


def mixtures(libri2mix: Path, split: str) -> Path:
    """LibriMix's list of a split's mixtures, whether it is there or not."""
    lists = [libri2mix / MIXTURES.format(part=part) for part in (PARTS[split], split)]
    return next((path for path in lists if path.exists()), lists[0])


def write_kaldi_folder(folder: Path, *, mixtures: Path, turns: Path, libri2mix: Path) -> Path:
    """Write wav.scp, segments, utt2spk, spk2utt, reco2dur and rttm of one split.

    Args:
        mixtures: LibriMix's csv of the split (mixture_ID, mixture_path, ..., length in samples).
        turns: LibriMix's RTTM of the LibriSpeech part the split is mixed from; recordings are named CHAPTER-NUMBER.
        libri2mix: where the mixtures lie now; the paths in the csv are those of the machine that mixed them.

    Raises:
        DataError: a file cannot be read, or a mixture's source has no turns.
    """
    spoken = _read_turns(turns)
    files: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "utt2spk", "reco2dur", "rttm")}
    of_speaker: dict[str, list[str]] = defaultdict(list)
    for mixture, path, samples in _read_mixtures(mixtures, libri2mix):
        files["wav.scp"].append(f"{mixture} {path}")
        files["reco2dur"].append(f"{mixture} {samples / SAMPLE_RATE}")
        for source in mixture.split("_"):
            speaker, _, recording = source.partition("-")
            if (speaker, recording) not in spoken:
                raise DataError(f"{turns} has no turns of {source}, a source of the mixture {mixture}")
            for start, end in spoken[speaker, recording]:
                segment = f"{speaker}_{mixture}_{round(start * 1000):06d}_{round(end * 1000):06d}"
                files["segments"].append(f"{segment} {mixture} {start} {end}")
                files["utt2spk"].append(f"{segment} {speaker}")
                files["rttm"].append(f"SPEAKER {mixture} 1 {start} {end - start} <NA> <NA> {speaker} <NA>")
                of_speaker[speaker].append(segment)
    files["spk2utt"] = [f"{speaker} {' '.join(segments)}" for speaker, segments in of_speaker.items()]
    for name, lines in files.items():
        write_text(folder / name, "".join(f"{line}\n" for line in sorted(lines)))
    return folder


def _read_turns(path: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(speaker, recording) -> turns in seconds."""
    spoken: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            _, recording, _, start, duration, _, _, speaker, *_ = line.split()
            spoken[speaker, recording].append((float(start), float(start) + float(duration)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as RTTM: {error}") from error
    return spoken


def _read_mixtures(path: Path, libri2mix: Path) -> list[tuple[str, Path, int]]:
    """(mixture, audio file, samples) of LibriMix's csv."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(row["mixture_ID"], _relocated(row["mixture_path"], libri2mix), int(row["length"])) for row in rows]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not LibriMix's list of mixtures: {error}") from error


def _relocated(written: str, libri2mix: Path) -> Path:
    _, found, below = written.rpartition("Libri2Mix/")
    if not found:
        raise ValueError(f"the path {written} does not lie in a folder Libri2Mix")
    return libri2mix / below
