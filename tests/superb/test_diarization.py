"""Diarization error against hand-computed cases and a frame-counting implementation of our own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruned_upstream.errors import DataError
from pruned_upstream.superb import diarization
from pruned_upstream.superb.diarization import Turn

pytest.importorskip("pyannote.metrics")


def test_hand_computed_case_with_overlap_and_no_collar():
    # reference: A 0-10, B 8-12 -> 14 s of speaker time, 2 s of them in overlap.
    # prediction: one 0-9 (A), two 9-13 (B): A missed 9-10 (1 s); B missed 8-9 (1 s); B false 12-13 (1 s) -> 3 / 14
    reference = {"rec": [Turn("A", 0, 10), Turn("B", 8, 12)]}
    hypothesis = {"rec": [Turn("one", 0, 9), Turn("two", 9, 13)]}
    assert diarization.error_rate(reference, hypothesis) == pytest.approx(3 / 14, abs=1e-12)


def test_recordings_are_pooled_by_speaker_time_and_a_silent_prediction_misses_all():
    reference = {"a": [Turn("A", 0, 9)], "b": [Turn("B", 0, 1)]}
    assert diarization.error_rate(reference, {"a": [Turn("x", 0, 9)]}) == pytest.approx(0.1, abs=1e-12)


def test_turns_are_found_at_both_ends_and_the_median_removes_blips():
    activity = np.array([[0.9, 0.0], [0.9, 0.0], [0.2, 0.9], [0.9, 0.0]])
    found = diarization.turns_of(activity, frame_seconds=0.5, threshold=0.5, median=1)
    assert found == [Turn("0", 0.0, 1.0), Turn("0", 1.5, 2.0), Turn("1", 1.0, 1.5)]
    # scipy's median filter pads with silence, so the last frame goes with the blip and the gap is filled
    assert diarization.turns_of(activity, frame_seconds=0.5, threshold=0.5, median=3) == [Turn("0", 0.0, 1.5)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_equals_counting_frames_under_the_best_assignment(seed, recordings):
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    frame = 0.25
    reference, hypothesis, errors, total = {}, {}, 0, 0
    for index in range(recordings):
        truth = (rng.random((12, 2)) < 0.5).repeat(3, axis=0)  # (36, 2): turns last at least three frames
        guess = rng.random((36, 2)) < 0.5
        truth[0, 0] = True
        name = f"rec{index}"
        reference[name] = diarization.turns_of(truth.astype(float), frame_seconds=frame, threshold=0.5, median=1)
        hypothesis[name] = diarization.turns_of(guess.astype(float), frame_seconds=frame, threshold=0.5, median=1)
        together = truth.T.astype(int) @ guess.astype(int)  # (2, 2) frames that reference and guess share
        matched = together[linear_sum_assignment(together, maximize=True)].sum()
        spoken, guessed = truth.sum(axis=1), guess.sum(axis=1)
        errors += np.maximum(spoken, guessed).sum() - matched
        total += spoken.sum()
    assert diarization.error_rate(reference, hypothesis) == pytest.approx(errors / total, abs=1e-9)


def test_the_lowest_of_the_ten_settings_counts(tmp_path):
    h5py = pytest.importorskip("h5py")
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    activity = np.zeros((100, 2))
    activity[:50, 0], activity[50:, 1] = 0.65, 0.45  # both speakers are found at the threshold 0.4 and below
    with h5py.File(predictions / "rec.h5", "w") as file:
        file["T_hat"] = activity
    (tmp_path / "rttm").write_text(
        "SPEAKER\trec\t1\t0.0\t0.5\t<NA>\t<NA>\tA\t<NA>\nSPEAKER rec 1 0.5 0.5 <NA> <NA> B\n"
    )
    best = diarization.best_error_rate(predictions, tmp_path / "rttm", frame_shift=160)
    assert (best.rate, best.threshold, best.median) == (0.0, 0.3, 1)


def test_missing_predictions_and_damaged_files_are_named(tmp_path):
    (tmp_path / "rttm").write_text("SPEAKER rec 1 0.0 0.5 <NA> <NA> A <NA>\n")
    with pytest.raises(DataError, match="no prediction for 1 of 1 recordings, e.g. rec"):
        diarization.best_error_rate(tmp_path, tmp_path / "rttm", frame_shift=160)
    (tmp_path / "rec.h5").write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="rec.h5"):
        diarization.best_error_rate(tmp_path, tmp_path / "rttm", frame_shift=160)
    (tmp_path / "rttm").write_text("SPEAKER rec 1 zero 0.5 <NA> <NA> A <NA>\n")
    with pytest.raises(DataError, match="line 1"):
        diarization.read_rttm(tmp_path / "rttm")
    (tmp_path / "rttm").write_bytes(b"SPEAKER caf\xe9 1 0.0 0.5 <NA> <NA> A <NA>\n")
    with pytest.raises(DataError, match="rttm is not UTF-8"):
        diarization.read_rttm(tmp_path / "rttm")
