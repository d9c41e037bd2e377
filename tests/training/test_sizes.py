"""Several sizes from one run, pruning that goes on from a compact file, and costs other than parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import SHAPES, random_encoder, tiny_config
from training.launching import ctrl_c_after, read_metrics
from typer.testing import CliRunner

from pruned_upstream.cli import build_app
from pruned_upstream.description.macs import official_macs
from pruned_upstream.errors import ConfigError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.pruning.latency_table import Latency, LatencyTable
from pruned_upstream.pruning.sparsity import Plateaus, counted_sparsity, plateau_ends
from pruned_upstream.training.prune import build_objective, run_prune, sizes
from pruned_upstream.training.recipe import save_recipe

THREE = {
    "sparsity.target": 0.8,
    "sparsity.targets": [0.5, 0.67, 0.8],
    "sparsity.exact": True,
    "optimisation.steps": 9,
    "second_stage.steps": 3,
    "repair.after_cut": True,
    "dropout.hidden": 0.1,
    "run.checkpoint_every": 100,
}


def assert_same_model(a: Encoder, b: Encoder) -> None:
    assert a.config == b.config
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def models_of(recipe) -> list[Path]:
    return [size.folder / "compact.safetensors" for size in sizes(recipe)]


def test_the_target_rises_in_plateaus() -> None:
    target = Plateaus([0.5, 0.8], steps=100, warmup=0.2)
    assert plateau_ends(2, 100) == target.ends == [50, 100]
    assert [target(step) for step in (0, 5, 10, 49, 50, 55, 60, 99)] == pytest.approx(
        [0.0, 0.25, 0.5, 0.5, 0.5, 0.65, 0.8, 0.8]
    )
    assert plateau_ends(3, 100) == [33, 67, 100]


def test_each_size_is_a_finished_model(recipe, tmp_path: Path) -> None:
    given = recipe(**THREE)
    last = run_prune(given)
    assert last == tmp_path / "run" / "compact.safetensors"
    found = models_of(given)
    assert [model.parent.name for model in found] == ["sparsity_0.5", "sparsity_0.67", "run"]
    for model, target, steps in zip(found, (0.5, 0.67, 0.8), (3, 6, 9), strict=True):
        report, config = json.loads((model.parent / "report.json").read_text()), read_header(model).config
        assert counted_sparsity(config.densified(), config) == pytest.approx(target, abs=0.03)
        assert report["target_sparsity"] == target
        assert report["steps"] == steps
        assert report["second_stage"]["steps"] == 3
        assert report["parameters"] == sum(p.numel() for p in load(model).parameters())
        assert len(read_metrics(model.parent / "second_stage")) == 3
    assert len(read_metrics(tmp_path / "run")) == 9
    assert len(json.loads((tmp_path / "run" / "launches.json").read_text())) == 1


def test_the_gates_go_on_as_if_no_size_had_been_cut(recipe, tmp_path: Path) -> None:
    """What the smaller sizes learn in their second stage is theirs alone."""
    plateaus = recipe(**THREE)
    run_prune(plateaus)
    without = recipe(**THREE | {"second_stage.steps": 0, "repair.after_cut": False, "run.folder": str(tmp_path / "b")})
    run_prune(without)
    a, b = (torch.load(tmp_path / name / "state.pt", weights_only=True)["objective"] for name in ("run", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("steps", [3, 4, 8])
def test_a_stopped_run_ends_with_the_same_bits(recipe, tmp_path: Path, steps: int) -> None:
    """In a plateau, at its end, in the second stage of a size, and so on: 3 + 3 + 3 + 3 + 3 + 3 steps."""
    whole, stopped = recipe(**THREE | {"run.folder": str(tmp_path / "whole")}), recipe(**THREE)
    run_prune(whole)
    with ctrl_c_after(steps):
        run_prune(stopped)
    run_prune(stopped)
    for ours, theirs in zip(models_of(stopped), models_of(whole), strict=True):
        assert_same_model(load(ours), load(theirs))
        reports = [json.loads((model.parent / "report.json").read_text()) for model in (ours, theirs)]
        assert reports[0] == reports[1]
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")


def test_several_sizes_without_a_step(recipe) -> None:
    given = recipe(**THREE | {"optimisation.steps": 0, "second_stage.steps": 0})
    run_prune(given)
    counts = [sum(p.numel() for p in load(model).parameters()) for model in models_of(given)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 3


@pytest.mark.parametrize(
    "targets", [[], [0.8, 0.5], [0.5, 0.5, 0.8], [0.0, 0.8], [0.5, 0.67]], ids=lambda targets: str(targets)
)
def test_targets_rise_to_the_target(recipe, targets: list[float]) -> None:
    with pytest.raises(ConfigError, match="sparsity.targets is .*; it must rise from above 0 to sparsity.target"):
        recipe(**{"sparsity.target": 0.8, "sparsity.targets": targets})


def test_pruning_goes_on_from_a_compact_file_of_its_teacher(recipe, tmp_path: Path) -> None:
    half = run_prune(recipe(**{"optimisation.steps": 3, "sparsity.exact": True}))
    changes = {"sparsity.target": 0.8, "sparsity.exact": True, "optimisation.steps": 3, "second_stage.steps": 2}
    further = recipe(start=str(half), **changes | {"run.folder": str(tmp_path / "further")})
    before, after = read_header(half).config, read_header(run_prune(further)).config
    assert counted_sparsity(before.densified(), after) == pytest.approx(0.8, abs=0.03)
    for smaller, larger in zip(after.layers, before.layers, strict=True):
        assert smaller.ffn <= larger.ffn
        assert {head.id for head in smaller.heads} <= {head.id for head in larger.heads}
    report = json.loads((tmp_path / "further" / "report.json").read_text())
    assert report["teacher_parameters"] == sum(p.numel() for p in load(further.teacher).parameters())


def test_a_start_that_is_small_enough_already_is_refused(recipe) -> None:
    half = run_prune(recipe(**{"optimisation.steps": 3, "sparsity.exact": True}))
    with pytest.raises(ConfigError, match="what the student starts from has lost"):
        build_objective(recipe(start=str(half), **{"sparsity.target": 0.4}))


def test_a_start_of_another_teacher_is_refused(recipe, tmp_path: Path) -> None:
    save(tmp_path / "other.safetensors", random_encoder(tiny_config(num_layers=2)))
    with pytest.raises(ConfigError, match="start has 2 layers of 24 dimensions and the teacher 3 of 24"):
        build_objective(recipe(start=str(tmp_path / "other.safetensors")))


def test_a_run_whose_start_has_changed_is_not_gone_on_with(recipe, tmp_path: Path, teacher_file: Path) -> None:
    from pruned_upstream.errors import DataError

    start = tmp_path / "start.safetensors"
    save(start, load(teacher_file))
    run_prune(recipe(start=str(start), **{"optimisation.steps": 2}))
    save(start, random_encoder(tiny_config(), seed=5))
    with pytest.raises(DataError, match="weights to start from"):
        run_prune(recipe(start=str(start), **{"optimisation.steps": 2}))


def test_macs_are_met(recipe) -> None:
    given = recipe(**{"sparsity.scope": "macs", "sparsity.target": 0.3, "sparsity.exact": True, "gates.conv": True})
    config = read_header(run_prune(given)).config
    before, after = (sum(b.total for b in official_macs(c)) for c in (config.densified(), config))
    assert 1 - after / before == pytest.approx(0.3, abs=0.03)


def test_time_is_met_by_the_table_that_was_measured(recipe, tmp_path: Path) -> None:
    changes = {"sparsity.scope": "latency", "sparsity.target": 0.2, "sparsity.exact": True, "latency.seconds": 0.3}
    config = read_header(run_prune(recipe(**changes))).config
    table = LatencyTable.load(tmp_path / "run" / "latency.json")
    assert counted_sparsity(config.densified(), config, Latency(table)) == pytest.approx(0.2, abs=0.06)
    # another run takes the same table, and so the same gates
    changes |= {"latency.table": str(tmp_path / "run" / "latency.json"), "run.folder": str(tmp_path / "again")}
    assert read_header(run_prune(recipe(**changes))).config == config
    assert not (tmp_path / "again" / "latency.json").exists()


def test_one_run_gives_a_table_of_quality_against_size_and_time(recipe, tmp_path: Path) -> None:
    save_recipe(recipe(**THREE | {"latency.seconds": 0.3}), tmp_path / "recipe.yaml")
    result = CliRunner().invoke(build_app(), ["prune", str(tmp_path / "recipe.yaml")], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    assert "sizes of this run" in result.output
    rows = json.loads((tmp_path / "run" / "sizes.json").read_text())
    assert [row["target"] for row in rows] == [0.5, 0.67, 0.8]
    for key in ("parameters", "macs"):
        values = [row[key] for row in rows]
        assert values == sorted(values, reverse=True)
    for row in rows:
        config = read_header(tmp_path / "run" / row["file"]).config
        assert row["macs"] == sum(bucket.total for bucket in official_macs(config))
        assert 0 < row["distance"] < 10
        assert row["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latency.seconds": 0.4}, "latency.seconds is 0.4, and the times in .* are of 0.3"),
        ({"latency.device": "cuda"}, "latency.device is cuda, and the times in .* are of cpu"),
    ],
)
def test_times_of_something_else_are_refused(recipe, tmp_path: Path, changes: dict, sentence: str) -> None:
    """In the run's folder, where another launch would have measured them, and where the recipe names a table."""
    options = {"sparsity.scope": "latency", "sparsity.target": 0.2, "optimisation.steps": 0, "latency.seconds": 0.3}
    run_prune(recipe(**options))
    table = tmp_path / "run" / "latency.json"
    with pytest.raises(ConfigError, match=f"{sentence}; remove it, it is measured anew"):
        run_prune(recipe(**options | changes))
    with pytest.raises(ConfigError, match=f"{sentence}; name another table"):
        run_prune(recipe(**options | changes | {"latency.table": str(table), "run.folder": str(tmp_path / "b")}))


@pytest.mark.parametrize("device", ["auto", "gpu", "cuda:x"])
def test_a_device_that_times_nothing_is_refused_at_once(recipe, device: str) -> None:
    with pytest.raises(ConfigError, match=f"latency.device is '{device}'; it must be cpu, cuda"):
        recipe(**{"latency.device": device})


def test_a_size_that_a_shortened_run_is_past_is_told(recipe, tmp_path: Path, caplog) -> None:
    with ctrl_c_after(2):
        run_prune(recipe(**THREE))
    run_prune(recipe(**THREE | {"optimisation.steps": 3}), amend=True)
    assert "there is no model of 50.0%: its share of the steps now ends with step 1, and step 2 is done" in caplog.text
    assert not (tmp_path / "run" / "sparsity_0.5" / "compact.safetensors").exists()
    assert (tmp_path / "run" / "sparsity_0.67" / "compact.safetensors").exists()


def test_a_start_of_another_family_is_refused(recipe, tmp_path: Path) -> None:
    save(tmp_path / "hubert.safetensors", random_encoder(SHAPES["hubert"]))
    with pytest.raises(ConfigError, match="the teacher is of the family wavlm and the student of hubert"):
        build_objective(recipe(start=str(tmp_path / "hubert.safetensors")))


def test_time_is_met_where_learned_channels_go(recipe) -> None:
    """Their gates end at fractions, which a cut by scores has none of."""
    changes = {"sparsity.scope": "latency", "sparsity.target": 0.2, "sparsity.exact": True, "latency.seconds": 0.3}
    config = read_header(run_prune(recipe(**changes | {"gates.conv": True, "gates.fine_grained": False}))).config
    assert config.feature_scale
    assert config.densified() == load(recipe().teacher).config
