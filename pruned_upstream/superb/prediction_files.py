"""The files in which s3prl leaves a task's predictions, read as strictly as whoever scores them reads.

s3prl writes UTF-8 without a byte order mark, a line for each prediction, line feeds alone, no control characters;
HDF5 and a number for diarization, XML for query-by-example. A file that is otherwise was cut off on its way, or an
editor has had it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from . import mtwv
from .layout import KEYWORD_CLASSES

EMOTIONS = ("neu", "hap", "ang", "sad")
SPEAKERS = range(10001, 11252)  # of VoxCeleb1
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d{1,2})?", re.ASCII)

IsValid = Callable[[str], bool]


def any_text(prediction: str) -> bool:
    """Nothing at all is a possible transcript."""
    return True


def is_keyword(prediction: str) -> bool:
    """One of the twelve classes."""
    return prediction in KEYWORD_CLASSES


def is_emotion(prediction: str) -> bool:
    """One of the four that are scored."""
    return prediction in EMOTIONS


def is_speaker(prediction: str) -> bool:
    """A speaker of VoxCeleb1: id10001 to id11251."""
    number = prediction.removeprefix("id")
    return number != prediction and number.isascii() and number.isdecimal() and int(number[:6]) in SPEAKERS


def is_score(prediction: str) -> bool:
    """A finite number as Python writes it."""
    return _NUMBER.fullmatch(prediction) is not None


def is_intent(prediction: str) -> bool:
    """Action, object and location."""
    values = prediction.split(",")
    return len(values) == 3 and all(value.strip() for value in values)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file as s3prl writes it.

    Raises:
        DataError: it cannot be read, is empty or cut off, or an editor has changed how it is encoded.
    """
    raw = read_bytes(path)
    if raw.startswith(UTF_16) or raw[:4].count(0) > 1:
        raise DataError(f"{path} is UTF-16 or UTF-32, and must be UTF-8")
    if raw.startswith(codecs.BOM_UTF8):
        raise DataError(f"{path} begins with a byte order mark, as some editors write it; save it as UTF-8 without one")
    if b"\r" in raw:
        number = raw.partition(b"\r")[0].count(b"\n") + 1
        raise DataError(f"{path}, line {number} holds a carriage return, as some editors write it; save it without")
    lines = raw.split(b"\n")
    if lines.pop():
        raise DataError(f"{path}: its last line is cut off")
    return [_decoded(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def read_predictions(path: Path, is_valid: IsValid) -> list[tuple[str, str]]:
    """Names and predictions: a line for each, with a blank between them, in csv files a comma.

    Raises:
        DataError: as `read_lines`; or a line is no prediction of the task.
    """
    separator = "," if path.suffix == ".csv" else " "
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        name, between, prediction = line.partition(separator)
        if not (name and between and is_valid(prediction)):
            raise DataError(f"{path}, line {number}: '{line[:60]}' is no prediction of this task")
        found.append((name, prediction))
    return found


def read_searches(path: Path) -> dict[str, list[str]]:
    """Query -> recordings it has a score for, the same for every query, from `benchmark.stdlist.xml`.

    Raises:
        DataError: it is no such file, it is cut off, or a query lacks a recording that others have.
    """
    if read_bytes(path).startswith((*UTF_16, codecs.BOM_UTF8)):
        raise DataError(f"{path} begins with a byte order mark; save it as UTF-8 without one")
    found = {query: sorted(scores) for query, scores in mtwv.read_detections(path).items()}
    first = next(iter(found.values()), [])
    for query, recordings in found.items():
        if not recordings or recordings != first:
            raise DataError(f"{path}: the query {query} is not scored against the same recordings as the others")
    return found


def read_bytes(path: Path) -> bytes:
    """Raises DataError: it is no file, cannot be read, or is empty."""
    if not path.is_file():
        raise DataError(f"{path} is no file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not raw:
        raise DataError(f"{path} is empty")
    return raw


def _decoded(line: bytes, where: str) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: it holds the byte 0x{line[error.start]:02x}") from error
    strange = next((character for character in text if not character.isprintable()), None)
    if strange is not None:
        raise DataError(f"{where} holds the control character U+{ord(strange):04X}")
    return text
