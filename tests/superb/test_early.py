"""The early estimate of superb_s: that it tells, that its interval holds, and when it keeps silent."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pruned_upstream.superb import early
from pruned_upstream.superb.early import QUICK_TASKS, NoEstimate, early_estimates, estimate
from pruned_upstream.superb.metrics import TASK_METRICS
from pruned_upstream.superb.published import published, published_rows
from pruned_upstream.superb.report import Entry
from pruned_upstream.superb.scores import SUPERB_S, on_tasks

ROWS = early.comparable_rows()


def test_it_rests_on_published_models_of_one_size():
    assert len(ROWS) == 11 and {"DistilHuBERT", "DPHuBERT", "DPWavLM"} <= {row.name for row in ROWS}
    assert not {"wav2vec", "WavLM Base", "FBANK"} & {row.name for row in ROWS}


def left_out(name: str, tasks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """The estimate for a published model from the others alone."""
    monkeypatch.setattr(early, "published_rows", lambda: [row for row in published_rows() if row.name != name])
    return estimate(on_tasks(published(name).metrics, tasks), parameters=25e6)


def test_models_left_out_are_estimated_within_their_intervals(monkeypatch):
    """By hand what the error says: each published model from the other ten, by PR and SID."""
    monkeypatch.setattr(early, "MARGIN", 1.0)  # the best and the worst of eleven lie outside the others' span
    misses, held = [], 0
    for row in ROWS:
        found = left_out(row.name, QUICK_TASKS, monkeypatch)
        misses.append(SUPERB_S(row.metrics) - found.value)
        held += found.low <= SUPERB_S(row.metrics) <= found.high
    assert math.sqrt(np.mean(np.square(misses))) == pytest.approx(10.6, abs=1.5)
    assert held >= 9, "of eleven, at a level of 90 %"


def test_the_error_is_that_of_leaving_one_out():
    """Least squares by the normal equations, for the line with a slope each for PR and SID."""
    points = np.array([[SUPERB_S.task_scores(row.metrics)[task] for task in QUICK_TASKS] for row in ROWS])
    scores = np.array([SUPERB_S(row.metrics) for row in ROWS])
    inputs = np.column_stack([np.ones(len(ROWS)), points])
    hat = inputs @ np.linalg.inv(inputs.T @ inputs) @ inputs.T
    leave_one_out = (scores - hat @ scores) / (1 - np.diag(hat))
    found = estimate(on_tasks(ROWS[0].metrics, QUICK_TASKS), parameters=25e6)
    assert found.error == pytest.approx(math.sqrt(np.mean(leave_one_out**2)), rel=1e-6)


def test_pr_and_sid_tell_most_of_all_pairs():
    trained = [task for task in TASK_METRICS if task != "qbe"]
    errors = {
        pair: estimate(on_tasks(published("DPHuBERT").metrics, pair), parameters=25e6).error
        for pair in itertools.combinations(trained, 2)
    }
    assert min(errors, key=errors.get) == QUICK_TASKS


def test_more_tasks_tell_more():
    metrics = published("DPHuBERT").metrics
    two, nine, one = (
        estimate(on_tasks(metrics, tasks), parameters=25e6)
        for tasks in (("pr", "sid"), tuple(TASK_METRICS)[:-1], ("ks",))
    )
    assert nine.error < two.error < 15
    assert nine.high - nine.low < two.high - two.low
    assert nine.low <= SUPERB_S(metrics) <= nine.high
    assert one.error > 50, "KS alone tells little"


DPHUBERT = on_tasks(published("DPHuBERT").metrics, QUICK_TASKS)


@pytest.mark.parametrize(
    "metrics, parameters, why",
    [
        ({}, 25e6, "there are 0 of 10"),
        (published("DPHuBERT").metrics, 25e6, "there are 10 of 10"),  # that is a superb_s
        (DPHUBERT, 95e6, "20 to 32M parameters, and this model has 95.00M"),
        (DPHUBERT, 3e6, "this model has 3.00M"),
        (DPHUBERT, None, "this model's parameters were not counted"),
        ({"pr.per": 66.7, "sid.acc": 75.0}, 25e6, "the points of pr lie far outside"),  # nobody published such a PER
    ],
)
def test_it_says_why_where_it_knows_nothing(metrics, parameters, why):
    with pytest.raises(NoEstimate, match=why):
        estimate(metrics, parameters=parameters)


@pytest.mark.parametrize("parameters, why", [(None, "were not counted"), (95_000_000, "this model has 95.00M")])
def test_a_model_of_another_size_is_told_why_it_has_no_estimate(make_results, parameters, why):
    (said,) = early_estimates([Entry.measured(make_results("big", tasks=("pr", "sid"), parameters=parameters))])
    assert said.startswith("big: no early estimate: ") and why in said
    assert early_estimates([Entry.measured(make_results("whole", parameters=parameters))]) == []


def test_results_that_are_not_official_are_left_out(make_results):
    official = Entry.measured(make_results("good", tasks=("pr", "sid")))
    toy = Entry.measured(make_results("toy", tasks=("pr", "sid"), why_unofficial="toy data"))
    (said,) = early_estimates([official, toy])
    assert said.startswith("good: early estimate from pr, sid: ")
    for word in ("90%", "interval", "no superb_s", "11 published models", "DPWavLM", "(rms)"):
        assert word in said
