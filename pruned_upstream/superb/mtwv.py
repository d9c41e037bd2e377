"""Maximum term-weighted value of query-by-example search, as the QUESST 2014 evaluation defines it.

A trial is one query against one recording. At threshold t, with the queries q that occur at all,

    TWV(t) = 1 - mean over q of [ misses(q) / targets(q)  +  beta * false alarms(q) / (recordings - targets(q)) ]
    beta   = C_fa / C_miss * (1 / P_target - 1) = 12.49

and MTWV is the largest TWV over all thresholds, the one that accepts nothing (TWV = 0) included.
Constants and file roles: `score-TWV-Cnxe.sh` of the MediaEval QUESST distribution (P_target 0.0008, C_fa 1, C_miss 100;
stdlist, rttm, ecf and tlist in; a trial without a score gets -10; queries that never occur are left out).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from ..errors import DataError
from ..parsing import read_lines

P_TARGET = 0.0008
C_FALSE_ALARM = 1.0
C_MISS = 100.0
BETA = C_FALSE_ALARM / C_MISS * (1 / P_TARGET - 1)
MISSING_SCORE = -10.0

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found: the recordings searched, and for each query that occurs those which contain it."""

    recordings: AbstractSet[str]
    targets: Mapping[str, AbstractSet[str]]


def read_ground_truth(folder: str | Path) -> GroundTruth:
    """Read the evaluation's `*.rttm` (occurrences), `*.ecf.xml` (recordings) and `*.tlist.xml` (queries).

    Raises:
        DataError: a file is absent, ambiguous or damaged, or no query occurs in any recording.
    """
    folder = Path(folder)
    excerpts = _parse_xml(_only(folder, "*.ecf.xml")).iter("excerpt")
    recordings = {_stem(_attribute(excerpt, "audio_filename", folder)) for excerpt in excerpts}
    queries = {_attribute(term, "termid", folder) for term in _parse_xml(_only(folder, "*.tlist.xml")).iter("term")}

    rttm = _only(folder, "*.rttm")
    targets: dict[str, set[str]] = {}
    for number, line in enumerate(read_lines(rttm), 1):
        fields = line.split()
        if not fields or fields[0] != "LEXEME":
            continue
        if len(fields) < 6:
            raise DataError(f"{rttm}, line {number}: a LEXEME line has at least 6 fields, this one {len(fields)}")
        recording, query = _stem(fields[1]), fields[5]
        if query in queries and recording in recordings:
            targets.setdefault(query, set()).add(recording)
    if not targets:
        raise DataError(f"{folder}: no query of the term list occurs in a recording of the ecf file")
    if everywhere := next((query for query, containing in targets.items() if len(containing) == len(recordings)), None):
        raise DataError(f"{folder}: the query {everywhere!r} occurs in every recording; there is nothing to tell apart")
    return GroundTruth(recordings, targets)


def read_detections(path: str | Path) -> Scores:
    """Read the scores of a `*.stdlist.xml` as s3prl's quesst14_dtw writes it: query -> recording -> score.

    Raises:
        DataError: the file is absent or damaged, a score is not a finite number, or stands there twice.
    """
    scores: dict[str, dict[str, float]] = {}
    root = _parse_xml(Path(path))
    if root.tag != "stdlist":
        raise DataError(f"{path} is no list of detections: it holds a <{root.tag}>, not a <stdlist>")
    for detected in root.iter("detected_termlist"):
        query = _attribute(detected, "termid", path)
        if query in scores:
            raise DataError(f"{path}: the query {query} comes twice")
        of_query = scores.setdefault(query, {})
        for term in detected.iter("term"):
            text = _attribute(term, "score", path)
            try:
                score = float(text)
            except ValueError:
                score = np.nan
            if not np.isfinite(score):
                raise DataError(f"{path}: '{text}' is not a score; the search produced no usable distances")
            recording = _stem(_attribute(term, "file", path))
            if recording in of_query:
                raise DataError(f"{path}: the query {query} has two scores for {recording}")
            of_query[recording] = score
    return scores


def max_twv(scores: Scores, truth: GroundTruth) -> tuple[float, float]:
    """The largest term-weighted value, and the lowest score that is accepted to reach it (inf: accept nothing).

    >>> truth = GroundTruth({"a", "b", "c"}, {"q": {"a"}})
    >>> max_twv({"q": {"a": 2.0, "b": 1.0, "c": 0.0}}, truth)
    (1.0, 2.0)
    """
    trials, gains = [], []
    for query, containing in truth.targets.items():
        given = scores.get(query, {})
        others = len(truth.recordings) - len(containing)
        for recording in truth.recordings:
            trials.append(given.get(recording, MISSING_SCORE))
            gains.append(1 / len(containing) if recording in containing else -BETA / others)

    order = np.argsort(trials)[::-1]
    ordered = np.asarray(trials)[order]
    values = np.cumsum(np.asarray(gains)[order]) / len(truth.targets)
    # equal scores are accepted together: only the last trial of each run of equal scores is a threshold
    thresholds = np.append(ordered[1:] != ordered[:-1], True)
    values, ordered = values[thresholds], ordered[thresholds]
    best = int(values.argmax())
    return (float(values[best]), float(ordered[best])) if values[best] > 0 else (0.0, np.inf)


def score_folder(detections: str | Path, ground_truth: str | Path) -> float:
    """MTWV (a fraction) of an s3prl output folder or file against the evaluation's ground truth folder."""
    detections = Path(detections)
    if detections.is_dir():
        detections = _only(detections, "*.stdlist.xml")
    return max_twv(read_detections(detections), read_ground_truth(ground_truth))[0]


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if len(found) != 1:
        raise DataError(f"{folder} must hold exactly one {pattern}, it holds {len(found)}")
    return found[0]


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: its encoding
        raise DataError(f"{path} cannot be read as XML: {error}") from error


def _attribute(element: ElementTree.Element, name: str, where: str | Path) -> str:
    if name not in element.attrib:
        raise DataError(f"{where}: a <{element.tag}> lacks the attribute {name}")
    return element.attrib[name]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
