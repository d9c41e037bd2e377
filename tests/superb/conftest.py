"""Run results that the tests of scores, tables and plots share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pruned_upstream.superb.published import PAPER, published
from pruned_upstream.superb.results import RunResults, TaskResult


@pytest.fixture
def make_results() -> Callable[..., RunResults]:
    """Results of a run with the paper's numbers, all tasks or the named ones, official or not."""

    def make(
        model: str = "ours",
        *,
        tasks: tuple[str, ...] | None = None,
        metrics: Mapping[str, float] = published(PAPER).metrics,
        why_unofficial: str = "",
        parameters: int | None = 26_571_000,
    ) -> RunResults:
        of_task: dict[str, dict[str, float]] = {}
        for key, value in metrics.items():
            task, name = key.split(".")
            of_task.setdefault(task, {})[name] = value
        return RunResults(
            model=model,
            upstream="pruned_wavlm",
            parameters=parameters,
            macs=(50_000_000_000, 90_000_000_000, 150_000_000_000, 310_000_000_000),
            tasks={
                task: TaskResult(own, official=not why_unofficial, notes=(why_unofficial,) if why_unofficial else ())
                for task, own in of_task.items()
                if tasks is None or task in tasks
            },
        )

    return make
