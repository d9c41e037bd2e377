"""From the shipped yaml to a run's: paths, shortening, and what makes a result not official."""

from __future__ import annotations

import pytest

from pruned_upstream.superb import configuration
from pruned_upstream.superb.short import SHORT
from pruned_upstream.superb.tasks import TASKS


def test_an_official_run_changes_paths_and_the_number_of_kept_checkpoints_alone():
    paths = {"downstream_expert": {"datarc": {"file_path": "here"}}}
    official, deviations = configuration.resolve(TASKS["ic"], {})
    config, same = configuration.resolve(TASKS["ic"], paths)
    assert deviations == same == []
    assert list(configuration.differences(official, config)) == [
        f"downstream_expert.datarc.file_path: {official['downstream_expert']['datarc']['file_path']} -> here"
    ]
    assert config["runner"]["max_keep"] == 2


def test_fewer_steps_are_marked_and_evaluated_within():
    config, deviations = configuration.resolve(TASKS["sid"], {}, steps=10)
    runner = config["runner"]
    assert deviations == ["10 training steps instead of 200000"]
    assert (runner["total_steps"], runner["eval_step"], runner["save_step"], runner["log_step"]) == (10, 2, 2, 2)
    assert runner["eval_dataloaders"] == ["dev"]


def test_a_tuned_learning_rate_is_official():
    config, deviations = configuration.resolve(TASKS["pr"], {}, lr=5e-4)
    assert config["optimizer"]["lr"] == 5e-4
    assert deviations == []


@pytest.mark.parametrize("name", SHORT)
def test_short_trainings_change_values_that_exist(name):
    official, _ = configuration.resolve(TASKS[name], {})
    for key in SHORT[name].overrides:
        section = official
        for part in key.split("."):
            assert part in section, key
            section = section[part]


def test_short_trainings_can_be_shortened_further():
    config, deviations = configuration.resolve(TASKS["ks"], {}, short=True, steps=4)
    assert config["runner"]["total_steps"] == 4
    assert len(deviations) == 2


def test_loader_processes_are_limited_wherever_they_are_named():
    config, _ = configuration.resolve(TASKS["sd"], {}, loader_workers=0)
    assert config["downstream_expert"]["loaderrc"]["num_workers"] == 0
    config, _ = configuration.resolve(TASKS["pr"], {}, loader_workers=3)
    assert config["downstream_expert"]["corpus"]["num_workers"] == 3


def test_differences_name_the_key():
    assert list(configuration.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})) == [
        "a.c: 2 -> 3",
        "d: None -> 4",
    ]
