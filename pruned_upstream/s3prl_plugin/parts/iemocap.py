"""ER's folds as s3prl has them, `SessionN/{train,test}_meta_data.json`: the emotions' numbers, and the recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...parsing import read_json


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


def _numbered(numbers: list[Any]) -> bool:
    return all(type(number) is int for number in numbers) and sorted(numbers) == list(range(len(numbers)))
