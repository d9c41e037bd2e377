"""The scorer of query-by-example search against hand-computed cases and scikit-learn's ROC curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruned_upstream.errors import DataError
from pruned_upstream.superb import mtwv


def test_beta_is_that_of_the_evaluation():
    # (1 / 100) * (1 / 0.0008 - 1) = 0.01 * 1249
    assert pytest.approx(12.49, abs=1e-12) == mtwv.BETA


def test_one_false_alarm_before_the_hit_costs_beta_over_the_other_recordings():
    # query p: hit, then others -> TWV_p = 1 at 3.0; query q: one of 20 others scores 4.0 above its target at 3.0
    # at 3.0 both hit: mean(1, 1 - 12.49 / 20) = 0.68775; at 3.5 nothing but the false alarm: -0.31225; so 0.68775
    recordings = {f"r{i}" for i in range(21)}
    truth = mtwv.GroundTruth(recordings, {"p": {"r0"}, "q": {"r0"}})
    low = dict.fromkeys(recordings, 0.0)
    scores = {"p": low | {"r0": 3.0}, "q": low | {"r0": 3.0, "r1": 4.0}}
    assert mtwv.max_twv(scores, truth) == (pytest.approx(0.68775, abs=1e-12), 3.0)


def test_a_miss_that_is_cheaper_than_a_false_alarm_is_taken():
    # 2 targets, 2 others: accepting the first target gives 1/2; the second would cost a false alarm of 12.49 / 2
    truth = mtwv.GroundTruth({"a", "b", "c", "d"}, {"q": {"a", "b"}})
    assert mtwv.max_twv({"q": {"a": 4.0, "c": 3.0, "b": 2.0, "d": 1.0}}, truth) == (0.5, 4.0)


def test_equal_scores_are_accepted_together():
    truth = mtwv.GroundTruth({"a", "b"}, {"q": {"a"}})
    assert mtwv.max_twv({"q": {"a": 1.0, "b": 1.0}}, truth) == (0.0, np.inf)


def test_queries_without_scores_are_missed_but_counted():
    truth = mtwv.GroundTruth({"a", "b"}, {"p": {"a"}, "q": {"b"}})
    assert mtwv.max_twv({"p": {"a": 1.0, "b": 0.0}}, truth)[0] == 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(3, 30), st.booleans())
def test_equals_scikit_learns_roc_curves(seed, queries, recordings, ties):
    roc_curve = pytest.importorskip("sklearn.metrics").roc_curve
    rng = np.random.default_rng(seed)
    names = [f"r{i}" for i in range(recordings)]
    targets, scores, curves = {}, {}, []
    for q in range(queries):
        labels = rng.permutation(np.arange(recordings) < rng.integers(1, recordings))
        values = rng.normal(size=recordings) + labels
        values = values.round(1) if ties else values
        targets[f"q{q}"] = {name for name, label in zip(names, labels, strict=True) if label}
        scores[f"q{q}"] = dict(zip(names, values.tolist(), strict=True))
        curves.append((roc_curve(labels, values, drop_intermediate=False), values))

    def twv(threshold):
        terms = []
        for (false_alarms, hits, thresholds), _ in curves:
            reached = np.flatnonzero(thresholds >= threshold)[-1]
            terms.append(1 - (1 - hits[reached]) - 12.49 * false_alarms[reached])
        return np.mean(terms)

    expected = max(0.0, *(twv(value) for _, values in curves for value in values))
    assert mtwv.max_twv(scores, mtwv.GroundTruth(set(names), targets))[0] == pytest.approx(expected, abs=1e-9)


def write_case(folder, *, score="1.5"):
    truth = folder / "groundtruth"
    truth.mkdir()
    (truth / "x.ecf.xml").write_text(
        '<ecf><excerpt audio_filename="Audio/doc1.wav"/><excerpt audio_filename="Audio/doc2.wav"/></ecf>'
    )
    (truth / "x.tlist.xml").write_text(
        '<termlist><term termid="q1"><termtext>q1</termtext></term><term termid="q2"/></termlist>'
    )
    (truth / "x.rttm").write_text("LEXEME doc2 1 0.5 0.3 q1 lex x 0.5\nLEXEME doc1 1 0 1 NO_KEYWORD lex x 0.5\n")
    (folder / "benchmark.stdlist.xml").write_text(
        '<stdlist><detected_termlist termid="q1">'
        f'<term file="doc2" score="{score}"/><term file="doc1" score="0.1"/></detected_termlist></stdlist>'
    )
    return truth


def test_files_of_the_evaluation_are_read(tmp_path):
    truth = write_case(tmp_path)
    assert mtwv.read_ground_truth(truth) == mtwv.GroundTruth({"doc1", "doc2"}, {"q1": {"doc2"}})
    assert mtwv.score_folder(tmp_path, truth) == 1.0


@pytest.mark.parametrize("damage", ["ecf", "nan", "rttm", "encoding", "bytes"])
def test_damaged_files_are_named(tmp_path, damage):
    truth = write_case(tmp_path, score="nan" if damage == "nan" else "1.5")
    if damage == "ecf":
        (truth / "x.ecf.xml").write_text("<ecf><excerpt")
    elif damage == "rttm":
        (truth / "x.rttm").unlink()
    elif damage == "encoding":
        (truth / "x.ecf.xml").write_text('<?xml version="1.0" encoding="klingon"?><ecf/>')
    elif damage == "bytes":
        (truth / "x.rttm").write_bytes(b"LEXEME caf\xe9 1 0 0 q1\n")
    said = {"ecf": "x.ecf.xml", "nan": "not a score", "rttm": "rttm", "encoding": "x.ecf.xml", "bytes": "x.rttm"}
    with pytest.raises(DataError, match=said[damage]):
        mtwv.score_folder(tmp_path, truth)
