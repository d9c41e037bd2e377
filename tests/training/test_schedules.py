"""Golden values of the schedules; tri-stage against fairseq's formula worked out by hand."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.training.schedules import constant, delayed, tri_stage, warmup_constant, warmup_linear_decay


def test_the_papers_schedule() -> None:
    factor = warmup_linear_decay(200_000, 0.07)
    assert factor(0) == pytest.approx(1 / 14_000)
    assert factor(6_999) == pytest.approx(0.5)
    assert factor(13_999) == 1.0
    assert factor(14_000) == 1.0
    assert factor(14_000 + 93_000) == pytest.approx(0.5)
    assert factor(199_999) == pytest.approx(1 / 186_000)


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_linear_schedule_is_positive_peaks_at_one_and_never_rises_after(steps: int, warmup: float) -> None:
    factor = warmup_linear_decay(steps, warmup)
    values = [factor(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == 1.0
    peak = values.index(1.0)
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values[: peak + 1] == sorted(values[: peak + 1])


def test_warmup_then_constant() -> None:
    assert [warmup_constant(10, 0.2)(step) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
    assert [constant()(step) for step in (0, 99)] == [1.0, 1.0]


def test_tri_stage() -> None:
    factor = tri_stage(1000, warmup=0.1, hold=0.4, final=0.05)
    assert factor(0) == pytest.approx(0.01)
    assert factor(50) == pytest.approx(0.505)
    assert factor(100) == factor(499) == 1.0
    assert factor(750) == pytest.approx(0.05**0.5)
    assert factor(1000) == pytest.approx(0.05)


def test_delayed() -> None:
    factor = delayed(tri_stage(1000, warmup=0.1, hold=0.4, final=0.05), 75)
    assert factor(0) == factor(74) == 0.0
    assert factor(75) == pytest.approx(0.7525)
    assert factor(100) == 1.0


def test_schedules_travel_between_processes() -> None:
    late = delayed(tri_stage(9, 0.1, 0.4, 0.05), 2)
    for schedule in (constant(), warmup_constant(9, 0.1), warmup_linear_decay(9, 0.1), late):
        assert pickle.loads(pickle.dumps(schedule))(3) == schedule(3)
