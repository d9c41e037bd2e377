"""Runs that are changed on the way: what may change, what is asked for, and that it is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training.launching import read_metrics, read_state

from pruned_upstream.errors import ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import read_header
from pruned_upstream.report.page import numbers, status
from pruned_upstream.report.runs import read_run
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.methods import METHODS
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import Kind, key_kinds


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def test_every_method_says_of_each_key_what_may_become_of_it() -> None:
    for method in METHODS.values():
        kinds = key_kinds(method.recipe_class)
        assert kinds["run.seed"] is Kind.TRAINING and kinds["run.folder"] is Kind.LAUNCH
        assert kinds["data.train"] is Kind.INPUT and kinds["data.batch_utterances"] is Kind.TRAINING
        assert kinds["optimisation.learning_rate"] is kinds["optimisation.steps"] is Kind.AMENDABLE
    parp, prune = (key_kinds(METHODS[name].recipe_class) for name in ("parp", "prune"))
    assert parp["parp.mask"] is Kind.INPUT and parp["parp.sparsity"] is Kind.TRAINING
    assert parp["decoding.beam"] is parp["data.test"] is Kind.EVALUATION
    assert prune["sparsity.exact"] is Kind.EVALUATION and prune["gates.fine_grained"] is Kind.TRAINING


def test_after_a_divergence_the_advice_can_be_followed(recipe, tmp_path: Path) -> None:
    """The rate is raised on the way until training diverges, and lowered from the last good state."""
    run, options = tmp_path / "run", {"optimisation.steps": 8, "run.checkpoint_every": 2, "sparsity.may_miss": True}
    run_prune(recipe(**options | {"optimisation.steps": 4}))
    wild = options | {"optimisation.learning_rate": 1e9}
    with pytest.raises(PrunedUpstreamError, match=r"state\.pt keeps the run as it was after step 4.*--amend") as caught:
        run_prune(recipe(**wild), amend=True)
    assert "distillation is" in str(caught.value) and "gradient_norm" not in str(caught.value)
    assert read_state(run)["step"] == 4
    calm = options | {"optimisation.learning_rate": 1e-5}
    with pytest.raises(ConfigError, match=r"learning_rate \(0.001 there, 1e-05 here\).*; add --amend to go on"):
        run_prune(recipe(**calm))
    model = run_prune(recipe(**calm), amend=True)
    wanted = [
        {"from_step": 4, "key": "optimisation.learning_rate", "before": 1e-3, "after": 1e-5},
        {"from_step": 4, "key": "optimisation.steps", "before": 4, "after": 8},
    ]
    assert report_of(run)["amendments"] == wanted
    assert json.loads(read_header(model).provenance["amendments"]) == wanted
    launches = json.loads((run / "launches.json").read_text())
    assert launches[-1]["amended"] == {"optimisation.learning_rate": [1e-3, 1e-5], "optimisation.steps": [4, 8]}
    page = dict(numbers([read_run(run)]).rows)
    assert page["amended"][0].startswith("optimisation.learning_rate: 0.001 -> 1e-05 after step 4; ")
    rates = [row["learning_rate/weights"] for row in read_metrics(run)]
    assert len(rates) == 8 and max(rates[:4]) > 1e-4 and 0 < max(rates[4:]) <= 1e-5
    run_prune(recipe(**calm))  # the same command, without the flag: nothing is new


def test_a_finished_run_is_extended(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run_prune(recipe())
    first = read_metrics(run)
    longer = recipe(**{"optimisation.steps": 10})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_prune(longer, amend=True)
    interrupted = read_run(run)  # the old model is there, and does not pass for the new one
    assert not interrupted.finished and status(interrupted) == "unfinished: step 6 of 10"
    run_prune(longer, amend=True)
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 11)) and rows[:6] == first
    assert report_of(run)["steps"] == 10 and read_run(run).finished
    (amendment,) = report_of(run)["amendments"]
    assert amendment == {"from_step": 6, "key": "optimisation.steps", "before": 6, "after": 10}
    with pytest.raises(ConfigError, match="optimisation.steps is 3, and the run in .* has done 10 already"):
        run_prune(recipe(**{"optimisation.steps": 3}), amend=True)


def test_what_an_optimiser_is_given_can_be_amended(recipe, tmp_path: Path) -> None:
    """Its state holds the old options, too."""
    run_prune(recipe(**{"optimisation.steps": 2}))
    changes = {"optimisation.weight_decay": 0.5, "optimisation.betas": [0.8, 0.9], "optimisation.eps": 1e-3}
    run_prune(recipe(**changes | {"optimisation.steps": 4}), amend=True)
    groups = read_state(tmp_path / "run")["optimiser"]["param_groups"]
    assert groups[0]["weight_decay"] == 0.5
    assert all(tuple(group["betas"]) == (0.8, 0.9) and group["eps"] == 1e-3 for group in groups)


def test_what_defines_a_run_cannot_be_amended(recipe) -> None:
    run_prune(recipe())
    with pytest.raises(ConfigError, match="distillation.pairing .*name another run.folder") as caught:
        run_prune(recipe(**{"distillation.pairing": "v3", "optimisation.learning_rate": 1e-5}), amend=True)
    assert "--amend" not in str(caught.value)


def test_the_second_stage_is_amended_in_its_own_right(recipe, tmp_path: Path) -> None:
    stages = {"optimisation.steps": 2, "second_stage.steps": 2, "run.checkpoint_every": 1}
    run_prune(recipe(**stages))
    longer = recipe(**stages | {"second_stage.steps": 4})
    run_prune(longer, amend=True)
    report = report_of(tmp_path / "run")
    assert report["second_stage"]["steps"] == 4
    keys = {(change["part"], change["key"], change["from_step"]) for change in report["amendments"]}
    assert keys == {("second_stage", "optimisation.steps", 2), ("second_stage", "second_stage.steps", 2)}
    run_prune(longer)  # the first stage, which was finished, has taken note


def test_the_command(recipe, tmp_path: Path, exit_code, capsys, invoke) -> None:
    from pruned_upstream.training.recipe import save_recipe

    save_recipe(recipe(**{"sparsity.may_miss": True}), tmp_path / "recipe.yaml")
    command = ["prune", tmp_path / "recipe.yaml"]
    assert exit_code(*command) == 0
    assert exit_code(*command, "optimisation.steps=7") == 2
    assert "add --amend to go on" in " ".join(capsys.readouterr().err.split())
    assert "optimisation.steps: 6 -> 7 after step 6" in invoke(*command, "optimisation.steps=7", "--amend")


def test_a_first_stage_that_a_second_has_begun_from_is_not_extended(recipe, tmp_path: Path) -> None:
    stages = {"optimisation.steps": 2, "second_stage.steps": 1, "run.checkpoint_every": 1}
    run_prune(recipe(**stages))
    longer = recipe(**stages | {"optimisation.steps": 3})
    with pytest.raises(DataError, match="second_stage holds a run on other first-stage weights"):
        run_prune(longer, amend=True)
    shutil.rmtree(tmp_path / "run" / "second_stage")
    run_prune(longer)
    assert report_of(tmp_path / "run")["steps"] == 3 and read_run(tmp_path / "run").finished
