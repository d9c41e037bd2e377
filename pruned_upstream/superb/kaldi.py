"""Kaldi folders as speaker diarization reads them: what stands in each column, and to which file it refers.

s3prl takes such a folder at its word (downstream/diarization/dataset.py): a turn that starts at "nan" is trained on
without a word, an utterance without a speaker ends in a KeyError as soon as its recording is drawn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..parsing import read_lines, repeated, shown

SPEAKERS = 2
"""In a recording, at most: the task's head has as many outputs."""
TOLERANCE = 0.5
"""Seconds by which a turn may outlast its recording: lists are rounded, and the ends of mixtures are cut."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        holds: a recording, an utterance, a speaker, seconds, a path, or something that is not read.
        key: each value stands in one line alone.
        of: the file whose keys are the values that may stand here; None where any may.
        all: each of those keys must stand here.
        rest: it takes the rest of the line; of a key's file, several values.
    """

    holds: str
    key: bool = False
    of: str | None = None
    all: bool = False
    rest: bool = False


SECONDS = "seconds"
_UNREAD, _UNREAD_REST = Column("unread"), Column("unread", rest=True)
_RECORDING = Column("recording", of="wav.scp", all=True)
FILES: Mapping[str, tuple[Column, ...]] = {
    "wav.scp": (Column("recording", key=True), Column("path", rest=True)),
    "segments": (Column("utterance", key=True), _RECORDING, Column(SECONDS), Column(SECONDS)),
    "utt2spk": (Column("utterance", key=True, of="segments", all=True), Column("speaker", rest=True)),
    "spk2utt": (Column("speaker", key=True), Column("utterance", of="segments", rest=True)),
    "reco2dur": (Column("recording", key=True, of="wav.scp", all=True), Column(SECONDS)),
    "rttm": (_UNREAD, _RECORDING, _UNREAD, Column(SECONDS), Column(SECONDS), _UNREAD, _UNREAD, Column("speaker"),
             _UNREAD_REST),
}  # fmt: skip
"""What s3prl and the scoring read; a file that is referred to comes first. Of an RTTM its SPEAKER lines count."""
REQUIRED = tuple(name for name in FILES if name != "wav.scp")
"""Without a wav.scp the folder `wav` says which recordings there are."""


def recordings(folder: Path) -> dict[str, Path]:
    """Recording -> audio file; without a wav.scp, from the folder `wav`, as s3prl has it.

    Raises:
        DataError: the wav.scp is damaged.
    """
    if not (folder / "wav.scp").exists():
        files = sorted((folder / "wav").glob("[!.]*.*"))
        return {path.stem: path for path in files if path.suffix in (".wav", ".flac")}
    rows = read_rows(folder / "wav.scp", {})
    return {recording: Path(path) for recording, path in rows if not path.endswith("|")}  # "|" ends a shell command


def require_sound(folder: Path) -> dict[str, float]:
    """Read all files of a folder, each against those that it refers to.

    Returns:
        recording -> seconds.

    Raises:
        DataError: a line is damaged, a value is none, or files do not fit together; the message names the first.
    """
    keys: dict[str, AbstractSet[str]] = {}
    rows: dict[str, list[list[str]]] = {}
    for name in FILES:
        if name == "wav.scp" and not (folder / name).exists():
            keys[name] = recordings(folder).keys()
            continue
        rows[name] = read_rows(folder / name, keys)
        keys[name] = {row[0] for row in rows[name]}
    lengths = {recording: float(seconds) for recording, seconds in rows["reco2dur"]}
    speaker_of = dict(rows["utt2spk"])
    speakers = defaultdict(set)
    for utterance, recording, start, end in rows["segments"]:
        speakers[recording].add(speaker_of[utterance])
        if not float(start) <= float(end) <= lengths[recording] + TOLERANCE:
            raise DataError(
                f"{folder / 'segments'}: the utterance {shown(utterance)} goes from {start} to {end} s in a recording "
                f"of {lengths[recording]:g} s"
            )
    for _, recording, _, start, duration, *_ in rows["rttm"]:
        if float(start) + float(duration) > lengths[recording] + TOLERANCE:
            raise DataError(
                f"{folder / 'rttm'}: a turn goes from {start} s on for {duration} s in the recording "
                f"{shown(recording)} of {lengths[recording]:g} s"
            )
    if many := next((recording for recording, names in speakers.items() if len(names) > SPEAKERS), None):
        raise DataError(
            f"{folder}: {len(speakers[many])} speakers talk in the recording {shown(many)}; the task is made for "
            f"{SPEAKERS}"
        )
    return lengths


def read_rows(path: Path, keys: Mapping[str, AbstractSet[str]]) -> list[list[str]]:
    """The lines of one of `FILES`, a field per column.

    Args:
        keys: file that was read before -> its keys.

    Raises:
        DataError: a line lacks a field, or a value cannot stand where it does.
    """
    columns = FILES[path.name]
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if path.name == "rttm" and not line.startswith("SPEAKER"):
            continue
        fields = line.split(None, len(columns) - 1) if columns[-1].rest else line.split()
        if len(fields) not in (len(columns), len(columns) - (columns[-1] == _UNREAD_REST)):
            raise DataError(
                f"{path}, line {number}: {shown(line)} is damaged; its fields are "
                f"{', '.join(column.holds for column in columns)}"
            )
        rows.append([field.strip() for field in fields])
    if not rows:
        raise DataError(f"{path} is empty")
    for place, column in enumerate(columns):
        _check(path, column, [row[place] for row in rows if place < len(row)], keys)
    return rows


def _check(path: Path, column: Column, values: list[str], keys: Mapping[str, AbstractSet[str]]) -> None:
    wrong = [value for value in values if not _is_time(value)] if column.holds == SECONDS else []
    if wrong:
        raise DataError(f"{path}: {shown(wrong[0])} is no number of seconds")
    if column.key and (twice := repeated(values)):
        raise DataError(f"{path}: the {column.holds} {shown(twice[0])} stands in several lines")
    if column.of is not None:
        named = {value for text in values for value in text.split()} if column.rest else set(values)
        known = keys[column.of]
        source = column.of if (path.parent / column.of).exists() else "the folder wav"
        if strangers := named - known:
            raise DataError(f"{path}: the {column.holds} {shown(min(strangers))} is not in {source}")
        if column.all and (absent := known - named):
            raise DataError(f"{path}: the {column.holds} {shown(min(absent))} of {source} is not in it")


def _is_time(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False
