"""The ten configurations against s3prl's, value by value."""

from __future__ import annotations

import json
from fnmatch import fnmatch

import pytest
import yaml
from configuration_table import AT_RUN_TIME, NOT_CHOSEN, PAGE, REASONS, changed_at_run_time, facts, page, rows

from pruned_upstream.resources import downstream_config_path
from pruned_upstream.superb.tasks import TASKS

ROWS = list(rows())


def test_all_ten_are_held_against_s3prl():
    assert {row.task for row in ROWS} == set(TASKS)
    assert len(ROWS) > 250


@pytest.mark.parametrize("task", TASKS)
def test_every_value_is_s3prls_or_differs_for_a_reason(task):
    unexplained = [
        f"{row.key}: s3prl has {row.s3prl}, we have {row.ours}"
        for row in ROWS
        if row.task == task and not row.same and row.reason is None
    ]
    assert unexplained == []


def test_no_reason_is_left_over():
    different = [f"{row.task}.{row.key}" for row in ROWS if not row.same]
    assert [pattern for pattern in REASONS if not any(fnmatch(key, pattern) for key in different)] == []


def test_numbers_and_flags_that_are_ours_too_are_never_another():
    """A reason may excuse a path, or an option that is left out; it may not change one."""
    for row in ROWS:
        if not row.same:
            assert row.ours == "(absent)" or isinstance(row.ours, str), row


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.reason == NOT_CHOSEN], ids=lambda row: f"{row.task}.{row.key}"
)
def test_what_is_left_out_belongs_to_what_is_not_chosen(row):
    config = yaml.safe_load(downstream_config_path(row.task).read_text())["downstream_expert"]
    section = config.get("model") or config["modelrc"]
    chosen = {section.get("select"), section.get("module"), section.get("ObjectiveLoss")}
    # downstream_expert.model.NAME..., or for SV's losses and modules one level deeper
    name = next(part for part in row.key.split(".") if part[0].isupper() and part != "LossConfig")
    assert name not in chosen


@pytest.mark.parametrize("task", TASKS)
def test_a_run_changes_nothing_else(task):
    changed = changed_at_run_time(task)
    assert set(changed) <= set(AT_RUN_TIME)
    if "runner.max_keep" in changed:
        assert changed["runner.max_keep"] == (1, 2)


def test_the_page_is_that_of_the_files():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/configuration_table.py"


def test_the_facts_are_those_beside_the_checkout():
    """Where the project's notes on s3prl are at hand, the facts kept here must be the same."""
    notes = PAGE.parents[2] / "shared/s3prl-configs.json"
    if not notes.is_file():
        pytest.skip("no ../shared/s3prl-configs.json")
    assert facts()["tasks"] == json.loads(notes.read_text())["tasks"]


def test_what_a_wrong_branch_once_gave():
    """Adaptive masks for slot filling, and evaluations every 4000 steps, were never on s3prl's main."""
    ours = {f"{row.task}.{row.key}": row.ours for row in ROWS}
    assert ours["sf.specaug.adaptive"] is False
    assert [ours[f"{task}.runner.eval_step"] for task in ("ks", "sid", "ic")] == [5000] * 3
    assert ours["pr.downstream_expert.corpus.train"] == ["train-clean-100"]
