"""Diarization error rate from s3prl's frame-wise predictions, by the conventions of the SUPERB leaderboard.

The predictions become RTTM turns at the thresholds 0.3, 0.4 ... 0.7 and median filters of 1 and 11 frames; of the ten
error rates the lowest counts (s3prl, downstream/diarization/score.sh and make_rttm.py). No collar, overlapped speech is
scored, all recordings are pooled: the `OVERALL` row of dscore. Recordings are scored from the first to the last turn of
reference and prediction together, as dscore does where no UEM is given.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..model.config import SAMPLE_RATE
from ..parsing import MALFORMED, read_lines

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIANS = (1, 11)
DATA_SET, FRAME_SHIFT = "T_hat", "frame_shift"  # what s3prl calls its predictions, and the file beside them
LARGEST = 10_000_000  # numbers of one recording; a day has so many frames of two speakers
SCORER = "pyannote.metrics, by the conventions of dscore (no collar, overlapped speech scored)"


@dataclass(frozen=True)
class Turn:
    """One speaker talking from `start` to `end` seconds."""

    speaker: str
    start: float
    end: float


Turns = Mapping[str, Sequence[Turn]]


@dataclass(frozen=True)
class BestError:
    """The lowest diarization error rate (a fraction) and where it was reached."""

    rate: float
    threshold: float
    median: int


def read_rttm(path: str | Path) -> dict[str, list[Turn]]:
    """Recording -> turns of the SPEAKER lines of an RTTM file (tabs or blanks, 8 fields or more).

    Raises:
        DataError: no such file, or a line that is no RTTM.
    """
    turns: dict[str, list[Turn]] = {}
    for number, line in enumerate(read_lines(Path(path)), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, duration, speaker = float(fields[3]), float(fields[4]), fields[7]
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}, line {number}: not an RTTM line: {line!r}") from error
        turns.setdefault(fields[1], []).append(Turn(speaker, start, start + duration))
    return turns


def turns_of(probabilities: np.ndarray, *, frame_seconds: float, threshold: float, median: int) -> list[Turn]:
    """Turns of one recording from (T, speakers) activity probabilities.

    Start and duration are rounded to 10 ms, as the RTTM files are in which they are officially scored.
    """
    from scipy.signal import medfilt

    active = (probabilities > threshold).astype(float)
    if median > 1:
        active = medfilt(active, (median, 1))
    turns = []
    for speaker, activity in enumerate(active.T):
        changes = np.flatnonzero(np.diff(np.pad(activity, 1)))  # pad: turns at either end have both edges
        for first, last in zip(changes[::2], changes[1::2], strict=True):
            start, duration = (round(float(frames) * frame_seconds, 2) for frames in (first, last - first))
            turns.append(Turn(str(speaker), start, start + duration))
    return turns


def error_rate(reference: Turns, hypothesis: Turns) -> float:
    """Diarization error rate (a fraction) pooled over the reference's recordings.

    Raises:
        DataError: the reference holds no speech.
    """
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(recording: str, turns: Sequence[Turn]) -> Annotation:
        result = Annotation(uri=recording)
        for track, turn in enumerate(turns):
            if turn.end > turn.start:
                result[Segment(turn.start, turn.end), track] = turn.speaker
        return result.support()

    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    with warnings.catch_warnings():
        # pyannote points out that it takes the joint extent for lack of a UEM: just what dscore does
        warnings.filterwarnings("ignore", message="'uem' was approximated")
        for recording, turns in reference.items():
            metric(annotation(recording, turns), annotation(recording, hypothesis.get(recording, ())))
    if metric.accumulated_["total"] == 0:
        raise DataError("the reference of the diarization test set holds no speech")
    return abs(metric)


def best_error_rate(predictions: str | Path, reference: str | Path, *, frame_shift: int) -> BestError:
    """Score a folder of s3prl's `*.h5` predictions against an RTTM file.

    Args:
        frame_shift: samples per frame, as s3prl's `frame_shift` file beside the predictions says.

    Raises:
        DataError: recordings of the reference without a prediction, or unreadable files.
    """
    truth = read_rttm(reference)
    activities = {path.stem: read_activity(path) for path in sorted(Path(predictions).glob("*.h5"))}
    if missing := sorted(truth.keys() - activities.keys()):
        raise DataError(
            f"{predictions}: no prediction for {len(missing)} of {len(truth)} recordings, e.g. {missing[0]}"
        )

    candidates = []
    for median in MEDIANS:
        for threshold in THRESHOLDS:
            hypothesis = {
                recording: turns_of(
                    activity, frame_seconds=frame_shift / SAMPLE_RATE, threshold=threshold, median=median
                )
                for recording, activity in activities.items()
            }
            candidates.append(BestError(error_rate(truth, hypothesis), threshold, median))
    return min(candidates, key=lambda candidate: candidate.rate)


def read_activity(path: Path) -> np.ndarray:
    """One recording's activity probabilities, (T, speakers), as s3prl writes them.

    Raises:
        DataError: the file is no HDF5, or cut off, or holds something else.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            stored = file[DATA_SET] if isinstance(file.get(DATA_SET, getlink=True), h5py.HardLink) else None
            if not isinstance(stored, h5py.Dataset) or stored.external or stored.is_virtual:
                raise DataError(f"{path} is no diarization prediction of s3prl: it holds no data set {DATA_SET}")
            if stored.ndim != 2 or not 0 < stored.size <= LARGEST or stored.dtype.kind != "f":
                raise DataError(
                    f"{path} is no diarization prediction of s3prl: {DATA_SET} is {stored.dtype} of the shape "
                    f"{stored.shape}, not one number for each frame and speaker"
                )
            activity = stored[:]
    except (OSError, *MALFORMED) as error:
        raise DataError(f"{path} is no HDF5 file, or was cut off") from error
    if not ((activity >= 0) & (activity <= 1)).all():  # NaN is neither
        raise DataError(f"{path} is no diarization prediction of s3prl: not all of its values are probabilities")
    return activity


def read_frame_shift(path: Path) -> int:
    """Samples per frame, as s3prl writes it beside its predictions: a number, and a line feed.

    Raises:
        DataError: there is no such file, or it says something else.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read, and the scorer needs it: {error.strerror}") from error
    if not re.fullmatch(rb"[1-9][0-9]{0,4}\n", text) or int(text) > SAMPLE_RATE:
        raise DataError(
            f"{path} does not hold what s3prl writes there: samples per frame, 1 to {SAMPLE_RATE}, in one line"
        )
    return int(text)
