"""Run folders as data: every metric a curve, half a last line left out, other damage named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pruned_upstream.errors import CheckpointError, DataError
from pruned_upstream.report.runs import Curve, base_recipe, read_run, read_runs
from pruned_upstream.training.methods import METHODS
from pruned_upstream.training.recipe import REQUIRED, key_kinds


def test_a_finished_run(pruned):
    run = read_run(pruned)
    assert (run.name, run.method_name, run.steps, run.total_steps) == ("run", "prune", 6, 6)
    assert run.finished and not run.torn
    assert run.model == pruned / "compact.safetensors" and run.header.config.num_layers == 3
    assert run.outcome == json.loads((pruned / "report.json").read_text())
    assert run.recipe["sparsity.target"] == 0.5
    rows = [json.loads(line) for line in (pruned / "metrics.jsonl").read_text().splitlines()]
    for name, curve in run.curves.items():
        assert curve.steps.tolist() == [1, 2, 3, 4, 5, 6]
        assert curve.values.tolist() == [row[name] for row in rows]
    assert run.seconds == pytest.approx(sum(row["seconds_per_step"] for row in rows))


def test_gates_of_the_layers_average_to_those_of_all(pruned):
    curves = read_run(pruned).curves
    for kind in ("attention", "feed_forward", "ffn", "qk", "vo"):
        layers = [curves[f"layer_gate/{kind}/{number}"].values for number in (1, 2, 3)]
        np.testing.assert_allclose(np.mean(layers, axis=0), curves[f"gate/{kind}"].values, rtol=1e-6)


def test_a_run_that_is_still_going_on(write_run):
    run = read_run(write_run([{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}], end='{"step": 30, "lo'))
    assert (run.steps, run.total_steps, run.finished, run.torn) == (20, 40, False, True)
    assert run.model is None and run.header is None and run.outcome == {}
    assert run.curves["loss"].values.tolist() == [2.0, 1.0]


def test_a_run_that_has_only_begun(write_run):
    folder = write_run([])
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.steps, run.total_steps, run.curves, run.loss) == (0, 40, {}, None)


@pytest.mark.parametrize(
    ("rows", "end", "complaint"),
    [
        ([{"step": 1}], '{"step": 2, "lo\n', "metrics.jsonl, line 2 is damaged: it is not JSON"),
        ([{"step": 1}], 'x\n{"step": 2}\n', "line 2 is damaged"),
        ([{"step": 1}], "\n", "line 2 is damaged"),
        ([{"loss": 1.0}], "", "line 1 is damaged: it does not name its step"),
        ([{"step": 1}], "[2]\n", "line 2 is damaged: it does not name its step"),
        ([{"step": 5}, {"step": 5}], "", "line 2: step 5 follows step 5"),
        ([{"step": 1, "loss": float("nan")}], "", "line 1: loss is nan"),
        ([], '{"step": 1, "loss": "low"}\n', "line 1: loss is 'low', which is no finite number"),
    ],
)
def test_other_damage_is_refused_with_its_place(write_run, rows, end, complaint):
    with pytest.raises(DataError, match=complaint):
        read_run(write_run(rows, end=end))


def test_what_is_no_run_is_refused(tmp_path, write_run):
    with pytest.raises(DataError, match="there is no run folder .*absent"):
        read_run(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no recipe.yaml"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="recipe.yaml cannot be read"):
        read_run(write_run([], name="a", recipe="a: ]"))
    with pytest.raises(DataError, match="is not a mapping of keys to values"):
        read_run(write_run([], name="b", recipe="just words"))


@pytest.mark.parametrize(("text", "complaint"), [("{", "report.json cannot be read"), ("[]", "not hold a JSON object")])
def test_a_damaged_report_is_refused(write_run, text, complaint):
    folder = write_run([])
    (folder / "report.json").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_run(folder)


def test_a_damaged_model_is_refused(write_run):
    folder = write_run([])
    (folder / "compact.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="compact.safetensors"):
        read_run(folder)


def test_runs_are_named_by_as_much_of_their_paths_as_tells_them_apart(write_run):
    alone = write_run([], name="alone")
    twins = [write_run([], name=f"{parent}/twin") for parent in ("a", "b")]
    assert [run.name for run in read_runs([alone])] == ["alone"]
    assert [run.name for run in read_runs([*twins, alone])] == ["a/twin", "b/twin", "runs/alone"]
    with pytest.raises(DataError, match="given twice"):
        read_runs([alone, alone])


def test_a_recipe_of_no_known_method_is_shown_as_it_is(write_run):
    run = read_run(write_run([{"step": 3, "wer": 9.5}], recipe="novel: {rate: 3}"))
    assert (run.method, run.method_name, run.total_steps) == (None, "training", 3)
    assert run.recipe == {"novel.rate": 3}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (list(range(1, 101)), 98.0),  # steps 96 to 100
        (list(range(10, 101, 10)), 100.0),  # the last report covers more than 5 %
        ([90, 96, 100], (6 * 96 + 4 * 100) / 10),  # weighted by the steps that a report stands for
    ],
)
def test_the_tail_is_a_mean_over_the_last_steps(steps, expected):
    assert Curve(np.array(steps), np.array(steps, dtype=float)).tail(0.05) == pytest.approx(expected)


def test_bases_have_a_value_for_every_key_of_their_recipes():
    base = base_recipe(METHODS["prune"])
    assert base["sparsity.target"] == 0.8 and base["optimisation.steps"] == 200_000
    assert base["teacher"] == "???"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_has_a_base_to_compare_with_though_it_lacks_what_a_run_must_say(method):
    keys = base_recipe(method)
    assert keys.keys() >= key_kinds(method.recipe_class).keys()
    assert keys["data.train"] == REQUIRED and isinstance(keys["optimisation.steps"], int)
