"""ER's folds as s3prl has them, `SessionN/{train,test}_meta_data.json`, and IEMOCAP's own labels, their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...parsing import read_json, read_lines, repeated, shown

EMOTIONS = ("neu", "hap", "ang", "sad")
MERGED = {"exc": "hap"}


@dataclass(frozen=True)
class Fold:
    """One part of a fold.

    Attributes:
        emotions: their names in the order of their numbers, which are the classes.
        recordings: paths below the corpus.
    """

    emotions: tuple[str, ...]
    recordings: tuple[str, ...]


def read_fold(path: Path) -> Fold:
    """Read one json file of a fold.

    Raises:
        DataError: it is not there, or it is something else; the message says what.
    """
    try:
        tree = read_json(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON in UTF-8: {error}") from error
    labels, entries = (tree.get(key) for key in ("labels", "meta_data")) if isinstance(tree, dict) else (None, None)
    if not isinstance(labels, dict) or not _numbered(list(labels.values())):
        raise DataError(f"{path} is not the metadata of a fold: its `labels` do not number the emotions from 0")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) and entry.get("label") in labels
        for entry in entries
    ):
        raise DataError(
            f"{path} is not the metadata of a fold: its `meta_data` are no list of recordings, each with the path and "
            "one of the labels"
        )
    return Fold(tuple(sorted(labels, key=labels.__getitem__)), tuple(entry["path"] for entry in entries))


def require_same_emotions(folds: Mapping[str, tuple[Fold, Fold]]) -> None:
    """Raise DataError unless all lists number the same emotions alike.

    Args:
        folds: session -> its lists for training and test.
    """
    emotions = {fold.emotions for pair in folds.values() for fold in pair}
    if len(emotions) > 1:
        first, second, *_ = sorted(map(", ".join, emotions))
        raise DataError(f"the folds number their emotions in several ways: {first}; {second}")


def mixed(folds: Mapping[str, tuple[Fold, Fold]]) -> list[str]:
    """Where a session is not tested on its own recordings alone, once, and trained on the others': a line per list."""
    said = []
    for session, parts in folds.items():
        for part, fold in zip(("train", "test"), parts, strict=True):
            strangers = [path for path in fold.recordings if (path.partition("/")[0] == session) != (part == "test")]
            for which, why in ((strangers, "of the wrong session"), (repeated(fold.recordings), "several times")):
                if which:
                    more = f" and {len(which) - 1} more" if len(which) > 1 else ""
                    said.append(f"{session}/{part}_meta_data.json: {shown(which[0])}{more} {why}")
    return said


def read_labels(root: Path, session: str) -> list[dict[str, str]]:
    """Path, label and speaker of a session's utterances of four emotions, sorted by path.

    The rule is that of s3prl's downstream/emotion/IEMOCAP_preprocess.py: happy and excited are one.

    Raises:
        DataError: the labels cannot be read, or no labelled utterance has a recording.
    """
    recordings = {wav.stem: wav for wav in (root / session / "sentences/wav").rglob("*.wav")}
    entries = []
    # some copies hold macOS's files ._NAME
    for labels in sorted((root / session / "dialog/EmoEvaluation").glob("[!.]*.txt")):
        for line in read_lines(labels):
            # [start - end] <tab> utterance <tab> emotion <tab> [valence, activation, dominance]
            _, *fields = line.split("\t") if line.startswith("[") else [""]
            if len(fields) < 2 or fields[0] not in recordings:
                continue
            emotion = MERGED.get(fields[1], fields[1])
            if emotion in EMOTIONS:
                path = recordings[fields[0]].relative_to(root)
                entries.append({"path": str(path), "label": emotion, "speaker": path.stem.partition("_")[0]})
    if not entries:
        raise DataError(f"{root / session} has no utterance with one of the four emotions and a recording")
    if twice := repeated(entry["path"] for entry in entries):
        raise DataError(f"{root / session}: the recording {shown(twice[0])} has several labels")
    return sorted(entries, key=lambda entry: entry["path"])


def _numbered(numbers: list[Any]) -> bool:
    return all(type(number) is int for number in numbers) and sorted(numbers) == list(range(len(numbers)))
