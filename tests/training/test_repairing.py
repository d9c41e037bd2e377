"""Repair and one-shot cuts from recordings to file: in a run, resumed, and as a command of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import SHAPES, largest_difference, random_encoder
from training.launching import ctrl_c_after, read_metrics
from typer.testing import CliRunner

from pruned_upstream.cli import build_app
from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.pruning.repair import repair
from pruned_upstream.pruning.scores import dimension_scores
from pruned_upstream.pruning.sparsity import counted_sparsity
from pruned_upstream.training import gated_stage
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches, window_of
from pruned_upstream.training.prune import (
    FIRST_STAGE_FILE,
    SECOND_STAGE_FOLDER,
    PruneRecipe,
    build_objective,
    run_prune,
)
from pruned_upstream.training.recipe import load_recipe, save_recipe
from pruned_upstream.training.repairing import calibration

ONE_SHOT = {"optimisation.steps": 0, "repair.after_cut": True}
ALL_STAGES = {
    "optimisation.steps": 4,
    "sparsity.exact": True,
    "repair.after_cut": True,
    "second_stage.steps": 4,
    "repair.after_second_stage": True,
    "run.checkpoint_every": 100,
}


def assert_same_model(a: Encoder, b: Encoder) -> None:
    assert a.config == b.config
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def report_of(model: Path) -> dict:
    return json.loads((model.parent / "report.json").read_text())


def test_one_shot_needs_no_step(recipe, tmp_path: Path) -> None:
    model = run_prune(recipe(**ONE_SHOT))
    report, header = report_of(model), read_header(model)
    assert report["steps"] == 0
    assert report["counted_sparsity"] == counted_sparsity(header.config.densified(), header.config)
    assert report["counted_sparsity"] == pytest.approx(0.5, abs=0.03)
    found = report["repairs"]["after_cut"]
    assert found["after"] < found["before"]
    assert header.provenance["method"] == "pruning by scores, then repair"
    assert not (tmp_path / "run" / "state.pt").exists()
    assert (tmp_path / "run" / "recipe.yaml").exists()
    assert len(json.loads((tmp_path / "run" / "launches.json").read_text())) == 1


def test_one_shot_without_repair_keeps_the_teachers_own_weights(recipe) -> None:
    given = recipe(**ONE_SHOT | {"repair.after_cut": False})
    student, teacher = load(run_prune(given)), load(given.teacher)
    weight = student.encoder.layers[0].fc1.weight
    rows = teacher.encoder.layers[0].fc1.weight
    assert all(any(torch.equal(row, other) for other in rows) for row in weight)


def test_the_recipe_one_shot_is_one(recipe) -> None:
    shipped = load_recipe("one_shot", PruneRecipe, ["teacher=t", "data.train=d"])
    assert shipped.optimisation.steps == 0
    assert shipped.repair.after_cut


def test_other_ways_of_training_need_a_step(recipe) -> None:
    with pytest.raises(ConfigError, match="optimisation.steps is 0; it must be at least 1"):
        load_recipe("distil_wavlm", _distill_recipe(), ["teacher=t", "data.train=d", "optimisation.steps=0"])


def _distill_recipe() -> type:
    from pruned_upstream.training.distill import DistillRecipe

    return DistillRecipe


def test_turned_heads_keep_more_and_resume(recipe, tmp_path: Path) -> None:
    changes = ONE_SHOT | {"gates.principal_axes": True, "run.folder": str(tmp_path / "turned")}
    turned, plain = (report_of(run_prune(recipe(**c)))["repairs"]["after_cut"] for c in (changes, ONE_SHOT))
    assert turned["after"] < plain["after"]
    learned = {"gates.principal_axes": True, "optimisation.steps": 4}
    whole = run_prune(recipe(**learned | {"run.folder": str(tmp_path / "whole")}))
    stopped = recipe(**learned | {"run.folder": str(tmp_path / "stopped")})
    with ctrl_c_after(2):
        run_prune(stopped)
    assert_same_model(load(run_prune(stopped)), load(whole))


def test_whole_heads_are_not_turned(recipe) -> None:
    with pytest.raises(ConfigError, match=r"gates\.principal_axes is True; it must be false where heads"):
        recipe(**{"gates.fine_grained": False, "gates.principal_axes": True})


@pytest.mark.parametrize(
    ("key", "value"), [("repair.seconds", 0), ("repair.damping", -0.1), ("gates.warm_start", -1.0)]
)
def test_impossible_values_are_named(recipe, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        recipe(**{key: value})


def test_the_repairs_of_a_run_are_in_its_report_and_file(recipe) -> None:
    model = run_prune(recipe(**ALL_STAGES))
    repairs = report_of(model)["repairs"]
    assert repairs.keys() == {"after_cut", "after_second_stage"}
    assert all(found["after"] <= found["before"] for found in repairs.values())
    assert read_header(model).provenance["method"] == "pruning, then repair, then distillation, then repair"


@pytest.mark.parametrize("stopped_in", ["first", "second"])
def test_a_run_that_is_stopped_ends_with_the_same_bits(recipe, tmp_path: Path, stopped_in: str) -> None:
    whole = run_prune(recipe(**ALL_STAGES | {"run.folder": str(tmp_path / "whole")}))
    stopped = recipe(**ALL_STAGES)
    with ctrl_c_after(2 if stopped_in == "first" else ALL_STAGES["optimisation.steps"] + 2):
        run_prune(stopped)
    cut = tmp_path / "run" / FIRST_STAGE_FILE
    assert cut.exists() == (stopped_in == "second")
    written = cut.stat().st_mtime_ns if cut.exists() else None
    model = run_prune(stopped)
    assert_same_model(load(model), load(whole))
    assert report_of(model) == report_of(whole)
    rows = [read_metrics(path / SECOND_STAGE_FOLDER) for path in (tmp_path / "run", tmp_path / "whole")]
    assert rows[0] == rows[1]
    if written:
        assert cut.stat().st_mtime_ns == written, "the repair was done twice"
    again = model.stat().st_mtime_ns
    assert run_prune(stopped).stat().st_mtime_ns == again, "a finished run was repaired twice"


def test_calibration_is_so_many_seconds_of_speech_or_all(recipe) -> None:
    given = recipe(**{"data.batch_utterances": 2})
    batches = Batches(find_corpus(given.data.train, min_samples=40), given.data, seed=0)
    encoder = load(given.teacher)

    def heard(seconds: float) -> list[int]:
        return [int(length) for _, lengths in calibration(encoder, batches, seconds) for length in lengths]

    assert sum(heard(1000.0)) == batches.lengths(range(len(batches.corpus))).sum()  # all of an epoch
    few = heard(0.2)
    assert sum(few) >= 0.2 * 16000 > sum(few[:-2])
    assert heard(0.2) == few


def test_what_hears_whole_windows_is_fitted_to_the_silence_behind_recordings_too(recipe, tmp_path: Path) -> None:
    teacher = random_encoder(SHAPES["whisper"])
    save(tmp_path / "whisper.safetensors", teacher)
    given = recipe(**ONE_SHOT | {"teacher": str(tmp_path / "whisper.safetensors"), "sparsity.exact": True})
    corpus = find_corpus(given.data.train, min_samples=40)
    window = 60 * 20
    batches = Batches(corpus, given.data, seed=0, window=window_of(teacher.config))
    heard = list(calibration(teacher, batches, 0.2))
    assert all(lengths.remainder(window).eq(0).all() for _, lengths in heard)
    spoken = [batches.crop(0, number)[1] for number in range(len(corpus))]
    assert sum(int((waveforms != 0).sum()) for waveforms, _ in heard) <= sum(spoken)
    assert sum(len(lengths) for _, lengths in heard) * max(spoken) >= 0.2 * 16000  # silence is not counted as speech

    ours = load(run_prune(given))
    unrepaired = {"repair.after_cut": False, "sparsity.exact": True, "run.folder": str(tmp_path / "unrepaired")}
    cut = load(run_prune(recipe(**ONE_SHOT | {"teacher": given.teacher} | unrepaired)))
    assert ours.config == cut.config
    speech_alone = list(calibration(teacher, Batches(corpus, given.data, seed=0), 1000.0))
    theirs = repair(teacher, cut, speech_alone).encoder
    filled = F.pad(torch.randn(400, generator=torch.Generator().manual_seed(5)) * 0.1, (0, window - 400))[None]
    with torch.no_grad():
        silence = [encoder(filled).hidden_states[-1][:, 25:] for encoder in (ours, theirs, teacher)]
    assert (silence[0] - silence[2]).norm() < 0.8 * (silence[1] - silence[2]).norm()


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_only_what_hears_whole_windows_fills_recordings_up(shape: str) -> None:
    assert window_of(SHAPES[shape]) == (1200 if shape == "whisper" else None)


def test_warm_gates_start_in_the_order_of_scores_and_resume(recipe, tmp_path: Path) -> None:
    changes = {"gates.warm_start": 1.0, "optimisation.steps": 4}
    whole = run_prune(recipe(**changes | {"run.folder": str(tmp_path / "whole")}))
    cold = run_prune(recipe(**changes | {"gates.warm_start": 0.0, "run.folder": str(tmp_path / "cold")}))
    assert load(cold).config != load(whole).config
    with ctrl_c_after(2):
        run_prune(recipe(**changes))
    assert_same_model(load(run_prune(recipe(**changes))), load(whole))


def test_the_command_repairs_any_compact_file(recipe, recordings: Path, teacher_file: Path, tmp_path: Path) -> None:
    model = run_prune(recipe(**ONE_SHOT | {"repair.after_cut": False}))
    command = ["repair", str(model), f"teacher={teacher_file}", f"data.train={recordings}", "data.max_seconds=0.15"]
    result = CliRunner().invoke(build_app(), [*command, "device=cpu"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    assert "before" in result.output
    target = model.with_name("compact_repaired.safetensors")
    ours, before, theirs = load(target), load(model), load(teacher_file)
    assert ours.config == before.config
    assert read_header(target).provenance["method"] == "pruning by scores"
    assert "repair" in read_header(target).provenance["repair_recipe"]
    objective = build_objective(recipe())
    batch = objective.student.prepare([torch.randn(2400, generator=torch.Generator().manual_seed(5)) * 0.1])
    with torch.no_grad():
        states = [encoder(batch[0]).hidden_states for encoder in (ours, before, theirs)]
    assert largest_difference(states[0], states[2]) < largest_difference(states[1], states[2])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.train=x"], "does not say teacher"),
        (["teacher=x", "data.train=y", "repair.secnods=3"], "did you mean 'repair.seconds'"),
    ],
)
def test_the_command_names_mistakes(recipe, tmp_path: Path, overrides: list[str], sentence: str) -> None:
    save_recipe(recipe(), tmp_path / "recipe.yaml")
    model = run_prune(recipe(**ONE_SHOT))
    result = CliRunner().invoke(build_app(), ["repair", str(model), *overrides])
    assert isinstance(result.exception, ConfigError)
    assert sentence in str(result.exception)
    assert not model.with_name("compact_repaired.safetensors").exists()


@pytest.mark.parametrize(
    ("student", "teacher", "sentence"),
    [
        ("wavlm", "hubert", "the teacher is of the family hubert and the student of wavlm"),
        ("wavlm", "data2vec", "of the family data2vec"),
        ("whisper", "whisper_own_length", "hears recordings at their own length and the student whole windows"),
        ("whisper_own_length", "whisper", "hears whole windows and the student recordings at their own length"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(
    recordings: Path, tmp_path: Path, student: str, teacher: str, sentence: str
) -> None:
    """Of the same depth and width, so that every matrix would fit."""
    for name in (student, teacher):
        save(tmp_path / f"{name}.safetensors", random_encoder(SHAPES[name]))
    command = ["repair", str(tmp_path / f"{student}.safetensors"), f"teacher={tmp_path / teacher}.safetensors"]
    result = CliRunner().invoke(build_app(), [*command, f"data.train={recordings}", "device=cpu"])
    assert isinstance(result.exception, ConfigError)
    assert sentence in str(result.exception)
    assert not (tmp_path / f"{student}_repaired.safetensors").exists()


@pytest.mark.parametrize("stages", [ONE_SHOT, ALL_STAGES], ids=["one_shot", "all_stages"])
def test_another_teacher_of_the_same_shape_is_refused(recipe, recordings: Path, tmp_path: Path, stages: dict) -> None:
    model, other = run_prune(recipe(**stages)), tmp_path / "other.safetensors"
    save(other, random_encoder(SHAPES["wavlm"], seed=5))
    command = ["repair", str(model), f"teacher={other}", f"data.train={recordings}", "device=cpu"]
    result = CliRunner().invoke(build_app(), command)
    assert isinstance(result.exception, ConfigError)
    assert "teacher is not the one that the student was pruned from, which was" in str(result.exception)
    # nor does a pruning go on from it
    with pytest.raises(ConfigError, match="teacher is not the one that the student was pruned from"):
        build_objective(recipe(teacher=str(other), start=str(model), **{"sparsity.target": 0.9}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_names_its_own_key_of_the_device(recipe, recordings: Path, teacher_file: Path) -> None:
    model = run_prune(recipe(**ONE_SHOT))
    command = ["repair", str(model), f"teacher={teacher_file}", f"data.train={recordings}", "device=cuda"]
    result = CliRunner().invoke(build_app(), command)
    assert str(result.exception) == "device is 'cuda', but torch sees no GPU; use device=cpu"


def test_a_run_that_goes_on_does_not_score_again(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state holds what became of the gates that started warm; scores take minutes of speech."""
    scored = []
    monkeypatch.setattr(gated_stage, "dimension_scores", lambda *given: scored.append(1) or dimension_scores(*given))
    changes = {"gates.warm_start": 1.0, "optimisation.steps": 4}
    with ctrl_c_after(2):
        run_prune(recipe(**changes))
    run_prune(recipe(**changes))
    run_prune(recipe(**changes))
    assert len(scored) == 1


def test_a_second_stage_that_went_on_from_another_cut_says_what_to_do(recipe, tmp_path: Path) -> None:
    run_prune(recipe(**ALL_STAGES))
    stage = tmp_path / "run" / SECOND_STAGE_FOLDER
    again = recipe(**ALL_STAGES | {"repair.damping": 0.5})
    with pytest.raises(DataError, match=f"other first-stage weights than what is cut now; remove {stage}"):
        run_prune(again)
    shutil.rmtree(stage)
    assert read_header(run_prune(again)).provenance["method"].count("repair") == 2
