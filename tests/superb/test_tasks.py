"""The table of tasks: complete, in step with the shipped yaml files, and reading s3prl's lines in the paper's units."""

from __future__ import annotations

import pytest
import yaml

from pruned_upstream.errors import ConfigError, PrunedUpstreamError
from pruned_upstream.resources import downstream_config_path
from pruned_upstream.superb.metrics import TASK_METRICS
from pruned_upstream.superb.tasks import TASKS, Reading, select


def test_the_ten_tasks_are_those_of_the_metrics():
    assert set(TASKS) == set(TASK_METRICS)
    for task in TASKS.values():
        if task.test:
            assert [reading.metric for reading in task.test] == [metric.name for metric in TASK_METRICS[task.name]]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_yaml_trains_for_the_official_steps(task):
    runner = yaml.safe_load(downstream_config_path(task.name).read_text())["runner"]
    assert runner.get("total_steps") == task.steps


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_readings_go_the_way_of_their_metric(task):
    better = {metric.name: metric.higher_is_better for metric in TASK_METRICS[task.name]}
    assert [reading.higher_is_better for reading in task.test] == [better[reading.metric] for reading in task.test]


@pytest.mark.parametrize(
    ("task", "stdout", "expected"),
    [
        ("pr", "[Runner] - Start\ntest loss: 0.9\ntest per: 0.0909\n", [9.09]),
        ("asr", "test-clean loss: 1\ntest-clean uer: 3.0\ntest-clean wer: 10.61\n", [10.61]),
        ("ks", "test acc: 0.9657\r\n", [96.57]),
        ("sv", "sv-voxceleb1/test-EER: 0.0617\n", [6.17]),
        ("sf", "test slot_type_f1: 0.8714\ntest slot_value_cer: 0.2713\ntest slot_value_wer: 0.5\n", [87.14, 27.13]),
    ],
)
def test_metrics_are_read_in_the_papers_units(task, stdout, expected):
    assert [reading.last(stdout) for reading in TASKS[task].test] == pytest.approx(expected)


def test_the_development_set_of_diarization_is_read_by_frame_accuracy():
    stdout = "mode dev acc 0.5 der 0.7\nmode test acc 0.9 der 0.1\nmode dev acc 0.75 der 0.3\n"
    assert TASKS["sd"].dev.all(stdout) == [50.0, 75.0]


def test_the_last_value_counts_for_a_test_and_a_missing_one_is_an_error():
    reading = Reading("acc", "test acc:")
    assert reading.last("test acc: 0.5\ntest acc: 0.25\n") == 25.0
    with pytest.raises(PrunedUpstreamError, match="without printing 'test acc:'"):
        reading.last("dev acc: 0.5\nthe test acc: 0.5\n")


def test_selection_keeps_the_tables_order_and_names_what_it_does_not_know():
    assert [task.name for task in select(["sf", "pr"])] == ["pr", "sf"]
    assert len(select(None)) == 10
    with pytest.raises(ConfigError, match="'kws'"):
        select(["kws"])
