"""The second stage: the compact model goes on learning in its shape, and an interruption in either stage resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training.launching import ctrl_c_after, finish, launch, read_metrics, read_state

from pruned_upstream.errors import ConfigError
from pruned_upstream.model.checkpoint import load, read_header
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.sparsity import counted_sparsity, final_gates
from pruned_upstream.training.prune import FIRST_STAGE_FILE, SECOND_STAGE_FOLDER, build_objective, run_prune

TWO_STAGES = {
    "optimisation.steps": 5,
    "second_stage.steps": 6,
    "second_stage.learning_rate": 1e-3,
    "dropout.hidden": 0.1,
    "sparsity.exact": True,
    "run.checkpoint_every": 100,
}


def assert_equal_weights(a: Encoder, b: Encoder) -> None:
    assert a.config == b.config
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_it_keeps_the_shape_and_lowers_the_loss(recipe, tmp_path: Path) -> None:
    options = {"optimisation.steps": 10, "second_stage.steps": 40, "second_stage.learning_rate": 3e-3}
    model = run_prune(recipe(**options | {"sparsity.exact": True}))
    folder = tmp_path / "run"
    first, second = load(folder / FIRST_STAGE_FILE), load(model)
    assert first.config == second.config
    assert not first.config.is_dense
    assert not torch.equal(first.encoder.layer_norm.weight, second.encoder.layer_norm.weight)
    report = json.loads((folder / "report.json").read_text())
    assert report["second_stage"]["steps"] == 40
    assert report["second_stage"]["loss_after"] < 0.9 * report["second_stage"]["loss_before"]
    assert report["difference_from_gated"] <= 1e-5
    assert report["steps"] == 10
    rows = read_metrics(folder / SECOND_STAGE_FOLDER)
    assert len(rows) == 40
    assert not [name for name in rows[0] if name.startswith(("gate/", "lambda"))]
    assert len(read_metrics(folder)) == 10
    assert read_header(model).provenance["method"] == "pruning, then distillation"


def test_it_starts_from_the_verified_cut_and_the_learned_maps(recipe, tmp_path: Path) -> None:
    given = recipe(**TWO_STAGES | {"second_stage.learning_rate": 1e-30, "optimisation.weight_decay": 0.0})
    model = run_prune(given)
    objective = build_objective(given)
    state = read_state(tmp_path / "run")["objective"]
    objective.load_state_dict(state)
    cut = compact(objective.student.eval(), final_gates(objective.gates, given.sparsity.target))
    assert_equal_weights(load(tmp_path / "run" / FIRST_STAGE_FILE), cut)
    for (name, ours), wanted in zip(load(model).state_dict().items(), cut.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12, msg=name)
    second = read_state(tmp_path / "run" / SECOND_STAGE_FOLDER)["objective"]
    assert not torch.equal(state["pairing.maps.0.weight"], torch.eye(24))
    torch.testing.assert_close(second["pairing.maps.0.weight"], state["pairing.maps.0.weight"], rtol=0, atol=1e-12)


def test_without_it_the_first_stage_is_the_result(recipe, tmp_path: Path) -> None:
    run_prune(recipe())
    assert json.loads((tmp_path / "run" / "report.json").read_text())["second_stage"] is None
    assert not (tmp_path / "run" / SECOND_STAGE_FOLDER).exists()
    assert not (tmp_path / "run" / FIRST_STAGE_FILE).exists()


@pytest.mark.parametrize(("stage", "done"), [("first", 3), ("second", 4)])
def test_an_interruption_in_either_stage_ends_with_the_same_bits(recipe, tmp_path: Path, stage: str, done: int) -> None:
    whole = run_prune(recipe(**TWO_STAGES | {"run.folder": str(tmp_path / "whole")}))
    stopped = recipe(**TWO_STAGES | {"run.folder": str(tmp_path / "stopped")})
    with ctrl_c_after(done if stage == "first" else TWO_STAGES["optimisation.steps"] + done):
        run_prune(stopped)
    where = tmp_path / "stopped" / (SECOND_STAGE_FOLDER if stage == "second" else "")
    assert read_state(where)["step"] == done
    assert not (tmp_path / "stopped" / "compact.safetensors").exists()
    assert_equal_weights(load(run_prune(stopped)), load(whole))
    for part in ("", SECOND_STAGE_FOLDER):
        assert read_metrics(tmp_path / "stopped" / part) == read_metrics(tmp_path / "whole" / part)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("stopped", "whole")]
    assert reports[0] == reports[1]


def test_another_second_stage_in_the_folder_is_refused(recipe) -> None:
    run_prune(recipe(**TWO_STAGES))
    with pytest.raises(ConfigError, match=r"run of another recipe: second_stage\.steps"):
        run_prune(recipe(**TWO_STAGES | {"second_stage.steps": 7}))


def test_batches_differ_from_those_of_the_first_stage(recipe, tmp_path: Path) -> None:
    run_prune(recipe(**TWO_STAGES))
    first, second = read_metrics(tmp_path / "run"), read_metrics(tmp_path / "run" / SECOND_STAGE_FOLDER)
    assert [row["frames"] for row in first] != [row["frames"] for row in second[: len(first)]]


def test_dphubert_on_a_small_scale(recipe, tmp_path: Path) -> None:
    """Heads, channels, groups with layer 0, the true gradient, two stages, in parts: every option together."""
    options = {
        "gates.fine_grained": False,
        "gates.multi_scale": False,
        "gates.conv": True,
        "gates.straight_through": False,
        "gates.clamp": None,
        "sparsity.scope": "everything",
        "distillation.groups": [[0], [1, 3]],
        "distillation.pairing": "fixed",
        "distillation.loss": "l1_minus_cosine",
        "optimisation.accumulation": 2,
    }
    model = load(run_prune(recipe(**TWO_STAGES | options)))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    dense = load(recipe().teacher).config
    assert report["counted_sparsity"] == counted_sparsity(dense, model.config, "everything")
    assert report["counted_sparsity"] == pytest.approx(0.5, abs=0.02)  # a row of so small a model is much
    rows = read_metrics(tmp_path / "run" / SECOND_STAGE_FOLDER)
    assert {name: rows[0][name] for name in ("pair/0", "pair/1", "pair/3")} == {"pair/0": 0, "pair/1": 1, "pair/3": 3}


def test_the_maps_of_all_groups_learn(recipe, tmp_path: Path) -> None:
    run_prune(recipe(**{"distillation.groups": [[0], [1, 2, 3]]}))
    state = read_state(tmp_path / "run")["objective"]
    for number in (0, 1):
        assert not torch.equal(state[f"pairing.maps.{number}.weight"], torch.eye(24))
    assert not torch.equal(state["pairing.maps.0.weight"], state["pairing.maps.1.weight"])


def test_processes_compute_what_one_process_does(recipe, tmp_path: Path) -> None:
    """What one of them finds out ahead of the first step (axes, scores) reaches all."""
    options = {"optimisation.steps": 3, "second_stage.steps": 3, "optimisation.eps": 1e-3}
    options |= {"gates.principal_axes": True, "gates.warm_start": 1.0}
    process = launch(recipe(**options | {"run.folder": str(tmp_path / "two")}), folder=tmp_path, processes=2)
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "one")}))
    finish(process)
    for part in ("", SECOND_STAGE_FOLDER):
        rows, wanted = (read_metrics(tmp_path / name / part) for name in ("two", "one"))
        assert len(rows) == len(wanted) == 3
        for row, other in zip(rows, wanted, strict=True):
            assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("two", "one")]
    assert reports[0]["second_stage"] == pytest.approx(reports[1]["second_stage"], rel=1e-5)


def test_in_bf16_with_accumulation(recipe) -> None:
    options = {"optimisation.precision": "bf16", "optimisation.accumulation": 2, "data.batch_seconds": 0.4}
    assert load(run_prune(recipe(**TWO_STAGES | options)))
