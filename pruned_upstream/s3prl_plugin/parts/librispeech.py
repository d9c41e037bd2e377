"""LibriSpeech as s3prl's PR and ASR want to be told about it: csv files of transcripts and lengths, a lexicon."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ...errors import DataError
from ...files import atomic_write
from ...parsing import read_lines, repeated, shown

Lexicon: TypeAlias = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Utterance:
    """A recording of LibriSpeech and what is said in it."""

    name: str
    path: Path
    transcript: str


def find_utterances(root: Path, splits: Sequence[str]) -> list[Utterance]:
    """Every line of the splits' transcript files, by name.

    Raises:
        DataError: a split is not there, holds no transcript, or a line is damaged.
    """
    utterances = []
    for split in splits:
        transcripts = sorted((root / split).glob("*/*/[!.]*.trans.txt"))
        if not (root / split).is_dir():
            raise DataError(f"{root} holds no {split}, a part of LibriSpeech: is its archive extracted there?")
        if not transcripts:
            raise DataError(f"{root / split} holds no SPEAKER/CHAPTER/*.trans.txt: not LibriSpeech's layout")
        for file in transcripts:
            for line in read_lines(file):
                name, blank, transcript = line.strip().partition(" ")
                if name and not blank:
                    raise DataError(f"{file}: the line {line!r} has no transcript")
                if name:
                    utterances.append(Utterance(name, file.parent / f"{name}.flac", transcript))
        if not any(utterance.path.is_relative_to(root / split) for utterance in utterances[-1:]):
            raise DataError(f"the transcripts in {root / split} name no recording")
    if twice := repeated(str(utterance.path) for utterance in utterances):
        raise DataError(f"the transcripts have {shown(twice[0])} several times")
    return sorted(utterances, key=lambda utterance: utterance.name)


def untranscribed(root: Path, utterances: Iterable[Utterance], split: str) -> list[Path]:
    """Recordings of a split that no transcript names; s3prl leaves them out without a word."""
    named = {utterance.path for utterance in utterances}
    return [path for path in sorted((root / split).glob("*/*/[!.]*.flac")) if path not in named]


def write_transcripts_csv(path: Path, utterances: Iterable[Utterance]) -> Path:
    """PR's csv, with the columns of s3prl's preprocess/preprocess_superb_pr.py that its reader uses."""
    rows = [{"id": u.name, "wav_path": str(u.path), "transcription": u.transcript} for u in utterances]
    return _write_csv(path, ("id", "wav_path", "transcription"), rows)


def read_transcripts_csv(path: Path) -> list[Utterance]:
    """The inverse of `write_transcripts_csv`; other columns are ignored.

    Raises:
        DataError: no such file, or a column is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [Utterance(row["id"], Path(row["wav_path"]), row["transcription"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is not a csv with the columns id, wav_path and transcription: {error}") from error


def write_lengths_csv(path: Path, root: Path, split: str) -> Path:
    """ASR's bucket file of a split: path relative to LibriSpeech and length in samples, the longest first.

    Columns as s3prl's preprocess/generate_len_for_bucket.py writes them, the nameless index included.

    Raises:
        DataError: an audio file cannot be read.
    """
    import soundfile

    rows = []
    for recording in (root / split).glob("*/*/[!.]*.flac"):
        try:
            length = soundfile.info(recording).frames
        except soundfile.SoundFileError as error:
            raise DataError(f"{recording} cannot be read as audio: {error}") from error
        rows.append({"file_path": recording.relative_to(root).as_posix(), "length": length})
    rows.sort(key=lambda row: (-row["length"], row["file_path"]))
    return _write_csv(path, ("", "file_path", "length", "label"), [{"": i, **row} for i, row in enumerate(rows)])


def read_lexicon(paths: Iterable[str | Path]) -> Lexicon:
    """Word -> phonemes from lines `WORD P1 P2 ...`; the first pronunciation of a word counts.

    Raises:
        DataError: a file cannot be read, or a word stands without phonemes.
    """
    lexicon: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for number, line in enumerate(read_lines(Path(path)), 1):
            word, *phones = line.split() or [""]
            if word and not phones:
                raise DataError(f"{path}, line {number}: the word {word} has no phonemes")
            if word:
                lexicon.setdefault(word, tuple(phones))
    return lexicon


def require_pronunciations(utterances: Iterable[Utterance], lexicon: Lexicon) -> None:
    """Raise DataError if a word of the transcripts is not in the lexicon."""
    missing = sorted({word for utterance in utterances for word in utterance.transcript.split()} - lexicon.keys())
    if missing:
        raise DataError(
            f"{len(missing)} words of the transcripts are not in the lexicon, e.g. {' '.join(missing[:5])}: give a "
            "lexicon that covers them (s3prl's two g2p lexicons do, in a clone under downstream/ctc/lexicon)"
        )


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Path:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
