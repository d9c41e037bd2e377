"""Pruning from teacher to file: the objective against autograd, the run, and the ways it can go wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms
from training.conftest import LENGTHS
from typer.testing import CliRunner

from pruned_upstream.cli import build_app
from pruned_upstream.errors import CheckpointError, ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.sparsity import counted_sparsity
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.prune import build_objective, run_prune
from pruned_upstream.training.recipe import recipe_yaml, save_recipe


def first_step(recipe):
    corpus = find_corpus(recipe.data.train, min_samples=40)
    parts = Batches(corpus, recipe.data, seed=0, accumulation=recipe.optimisation.accumulation)[0]
    objective = build_objective(recipe)
    objective.begin_step(0, parts)
    for part in parts:
        objective.loss(part).backward()
    objective.end_step()
    return objective, parts


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gate_gradients_are_clipped_after_they_are_summed(recipe, accumulation: int) -> None:
    settings = {"optimisation.accumulation": accumulation, "gates.clamp": None, "gates.drop_qk": 0.5}
    objective, parts = first_step(recipe(**settings))
    summed = {kind: value.grad.clone() for kind, value in objective.sample.values.items()}
    found = {kind: p.grad.clone() for kind, p in objective.gates.log_alpha.items()}

    # the same draw, taken through the clipped straight-through estimator in one autograd graph
    again, _ = first_step(recipe(**settings | {"optimisation.accumulation": 1}))
    for kind, gradient in summed.items():
        torch.testing.assert_close(gradient, again.sample.values[kind].grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[kind], again.gates.log_alpha[kind].grad, rtol=1e-4, atol=1e-6)


def test_at_the_start_an_ungated_student_is_its_teacher(recipe) -> None:
    shut = dict.fromkeys(("gates.drop_qk", "gates.drop_vo", "gates.drop_ffn"), 1e-9)
    coarse = dict.fromkeys(("gates.drop_attention", "gates.drop_feed_forward"), 1e-9)
    objective, _ = first_step(recipe(**shut | coarse | {"distillation.pairing": "fixed", "gates.clamp": None}))
    assert objective.distillation.item() == pytest.approx(0.0, abs=1e-10)
    assert objective.expected.item() == pytest.approx(0.0, abs=1e-6)


def test_teacher_is_left_alone_and_everything_else_learns(recipe) -> None:
    objective, _ = first_step(recipe(**{"distillation.pairing": "fixed"}))
    assert all(p.grad is None for p in objective.teacher.parameters())
    groups = objective.parameter_groups()
    grouped = [p for group in groups for p in group.parameters]
    assert {id(p) for p in grouped} == {id(p) for p in objective.modules.parameters()}
    assert len(grouped) == len(set(map(id, grouped)))
    without = [n for n, p in objective.modules.named_parameters() if p.grad is None]
    assert without == []
    by_name = {group.name: group for group in groups}
    assert by_name["multipliers"].maximise
    assert [name for name, group in by_name.items() if group.weight_decay] == ["weights"]


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 1 / 9)])
def test_rate_of_gates_and_multipliers(recipe, schedule, last) -> None:
    given = recipe(**{"optimisation.steps": 10, "optimisation.warmup": 0.1, "optimisation.gate_schedule": schedule})
    objective = build_objective(given)
    factors = {group.name: group.schedule(9) for group in objective.parameter_groups()}
    assert factors["gates"] == factors["multipliers"] == pytest.approx(last)
    assert factors["weights"] == pytest.approx(1 / 9)


def test_an_unknown_gate_schedule_is_refused(recipe) -> None:
    with pytest.raises(ConfigError, match="gate_schedule is 'cosine'; it must be one of constant, linear"):
        recipe(**{"optimisation.gate_schedule": "cosine"})


def test_a_run_leaves_everything_needed_to_repeat_it(recipe, tmp_path: Path) -> None:
    given = recipe(**{"optimisation.steps": 30})
    model = run_prune(given)
    folder = tmp_path / "run"
    assert model == folder / "compact.safetensors"
    assert (folder / "recipe.yaml").read_text() == recipe_yaml(given)
    (launch,) = json.loads((folder / "launches.json").read_text())
    assert launch["versions"]["torch"] == torch.__version__
    assert {"command", "commit", "processes", "from_step", "time"} <= launch.keys()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 30
    assert list((folder / "tensorboard").iterdir())
    report = json.loads((folder / "report.json").read_text())
    header = read_header(model)
    assert report["parameters"] == count_parameters(header.config) < report["teacher_parameters"]
    assert report["parameters"] == sum(p.numel() for p in load(model).parameters())
    assert report["counted_sparsity"] == counted_sparsity(header.config.densified(), header.config)
    assert 0 < report["expected_sparsity"] < 1
    assert report["difference_from_gated"] <= 1e-5
    assert header.provenance["teacher"] == given.teacher
    assert header.provenance["recipe"] == recipe_yaml(given)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".lock"]


def test_what_is_written_computes_what_the_gated_student_does(recipe, tmp_path: Path) -> None:
    given = recipe(**{"optimisation.steps": 40, "gates.drop_attention": 0.4})
    compact = load(run_prune(given))
    objective = build_objective(given)
    objective.load_state_dict(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["objective"])
    student = objective.student.eval()
    waveforms, lengths = student.prepare(unequal_waveforms())
    with torch.no_grad():
        gated = student(waveforms, lengths, gates=objective.gates.deterministic())
        ours = compact(waveforms, lengths)
    assert largest_difference(ours.hidden_states, gated.hidden_states, gated.padding_mask) <= 1e-5
    assert count_parameters(compact.config) < count_parameters(student.config)


@pytest.mark.parametrize(
    "changes",
    [
        {"gates.fine_grained": False},
        {"gates.multi_scale": False},
        {"gates.straight_through": False},
        {"gates.conv": True, "sparsity.scope": "everything"},
        {"distillation.loss": "l1_minus_cosine"},
        {"optimisation.precision": "bf16", "optimisation.accumulation": 2},
        {"data.batch_seconds": 0.4, "dropout.layerdrop": 0.3},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_option_trains_and_exports(recipe, changes) -> None:
    assert load(run_prune(recipe(**{"optimisation.steps": 3} | changes)))


@pytest.mark.parametrize("shape", ["wavlm_prenorm", "hubert", "wav2vec2_prenorm", "data2vec"])
def test_every_backbone_trains_and_exports(recipe, shape: str, tmp_path: Path) -> None:
    from tiny import SHAPES

    save(tmp_path / "other.safetensors", random_encoder(SHAPES[shape]))
    changes = {"teacher": str(tmp_path / "other.safetensors"), "optimisation.steps": 2}
    assert load(run_prune(recipe(**changes))).config.family == SHAPES[shape].family


@pytest.mark.parametrize("shape", ["wavlm", "wavlm_prenorm"])
def test_a_student_that_hears_chunks(recipe, shape: str, tmp_path: Path) -> None:
    """Its teacher hears the whole; the file that is written streams what it computes of the whole."""
    teacher = random_encoder(SHAPES[shape])
    save(tmp_path / "teacher.safetensors", teacher)
    chunks = {"streaming.chunk_seconds": 0.02, "streaming.history_seconds": 0.05, "repair.after_cut": True}
    model = load(run_prune(recipe(**chunks, teacher=str(tmp_path / "teacher.safetensors"))))
    assert model.config.streaming is not None and load(tmp_path / "teacher.safetensors").config.streaming is None
    (wav,) = unequal_waveforms((1600,))
    with torch.no_grad():
        outputs = list(model.stream([wav[:100], wav[100:]]))
        whole = model.extract(wav).hidden_states
    assert len(outputs) > 1
    streamed = [torch.cat(states, 1) for states in zip(*(o.hidden_states for o in outputs), strict=True)]
    assert largest_difference(streamed, whole) < 1e-5


def test_every_weight_learns_in_bf16_with_accumulation(recipe, tmp_path: Path) -> None:
    """Casts that autocast kept from the pass without gradients would cut the student's weights off."""
    changes = {"optimisation.precision": "bf16", "optimisation.accumulation": 2, "optimisation.weight_decay": 0.0}
    given = recipe(**changes | {"optimisation.steps": 2})
    run_prune(given)
    before = load(given.teacher).state_dict()
    after = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["objective"]
    same = [name for name, weight in before.items() if torch.equal(after[f"student.{name}"], weight)]
    assert same == []


def test_a_corpus_of_nan_stops_with_a_sentence(recipe, recordings: Path, tmp_path: Path) -> None:
    for path in recordings.rglob("*.wav"):
        soundfile.write(path, np.full(1000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"no recording of the last (\d+) batches could be used.*NaN"):
        run_prune(recipe())
    assert not (tmp_path / "run" / "compact.safetensors").exists()


def test_a_batch_of_bad_recordings_alone_has_no_line_in_the_log(recipe, recordings: Path, tmp_path: Path) -> None:
    """Whatever `log_every` is: the others' means are not mixed with its zeros."""
    bad = recordings / "speaker1" / "1.wav"
    soundfile.write(bad, np.full(1000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    epoch = len(list(recordings.rglob("*.wav")))
    for every, lines in ((1, epoch - 1), (epoch, 1)):
        folder = tmp_path / f"every{every}"
        changes = {"data.batch_utterances": 1, "optimisation.steps": epoch, "second_stage.steps": 0}
        run_prune(recipe(**changes | {"run.log_every": every, "run.folder": str(folder), "sparsity.may_miss": True}))
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert len(logged) == lines
        assert all(line["frames"] > 0 and line["distillation"] > 0 for line in logged)


def test_a_few_bad_recordings_do_not_stop_the_run(recipe, recordings: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = recordings / "speaker1" / "1.wav"
    soundfile.write(bad, np.full(1000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        run_prune(recipe(**{"optimisation.steps": 8}))
    named = [record.getMessage() for record in caplog.records if "speaker1/1.wav" in record.getMessage()]
    assert named == ["speaker1/1.wav is skipped: it holds samples that are NaN or infinite (1 so far)"]


def test_divergence_stops_with_a_sentence_and_keeps_the_last_state(recipe, tmp_path: Path) -> None:
    with pytest.raises(PrunedUpstreamError, match=r"training diverged: distillation is (nan|inf) at step 2\. .*amend"):
        run_prune(recipe(**{"optimisation.learning_rate": 1e9, "run.checkpoint_every": 1}))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert all(t.isfinite().all() for t in state["objective"].values())
    assert not (tmp_path / "run" / "compact.safetensors").exists()


WOUND_UP = {
    "optimisation.multiplier_learning_rate": 10.0,
    "optimisation.gate_learning_rate": 0.5,
    "optimisation.steps": 20,
    "sparsity.target": 0.3,
}


@pytest.mark.parametrize(
    ("changes", "advice"),
    [  # in a few steps gates hardly move; in some more, multipliers that grow fast drive them past the target
        ({}, "more steps, or a higher optimisation.gate_learning_rate"),
        (WOUND_UP, "more steps bring them back, or try another optimisation.multiplier_learning_rate"),
    ],
)
def test_a_run_that_misses_its_target_says_so(recipe, caplog: pytest.LogCaptureFixture, changes, advice) -> None:
    run_prune(recipe(**changes))
    assert advice in caplog.text


def test_a_pruned_model_is_pruned_further(recipe, tmp_path: Path) -> None:
    half = run_prune(recipe(**{"optimisation.steps": 3, "sparsity.exact": True}))
    changes = {"sparsity.target": 0.8, "sparsity.exact": True, "run.folder": str(tmp_path / "further")}
    further = run_prune(recipe(teacher=str(half), **{"optimisation.steps": 3} | changes))
    before, after = read_header(half).config, read_header(further).config
    assert counted_sparsity(before.densified(), before) == pytest.approx(0.5, abs=0.03)
    assert counted_sparsity(before.densified(), after) == pytest.approx(0.8, abs=0.03)
    assert json.loads((tmp_path / "further" / "report.json").read_text())["counted_sparsity"] == pytest.approx(
        0.8, abs=0.03
    )


def test_recordings_shorter_than_the_receptive_field_are_skipped(recipe, tmp_path: Path) -> None:
    config = tiny_config(conv_layers=((16, 1000, 5), (16, 3, 2), (16, 2, 2)))
    save(tmp_path / "wide.safetensors", random_encoder(config))
    run_prune(recipe(teacher=str(tmp_path / "wide.safetensors"), **{"optimisation.steps": 1}))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["skipped"].keys() == {"speaker0/2.wav", "speaker0/6.wav"}  # 900 and 640 samples
    assert report["recordings"] == len(LENGTHS) - 2


def test_the_command(recipe, tmp_path: Path) -> None:
    save_recipe(recipe(), tmp_path / "recipe.yaml")
    command = ["prune", str(tmp_path / "recipe.yaml"), "optimisation.steps=2"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 3, result.output  # two steps do not reach any target
    assert "counted in the file" in result.output and "TARGET MISSED" in result.output
    result = CliRunner().invoke(build_app(), [*command, "sparsity.may_miss=true"])
    assert result.exit_code == 0, result.output
    assert "target missed: " in result.output.replace("\n", " ")
    assert (tmp_path / "run" / "compact.safetensors").exists()


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["teacher=missing.pt"], CheckpointError),
        (["data.train=missing"], DataError),
        (["sparsity.traget=0.5"], ConfigError),
        (["distillation.teacher_layers=[9]"], ConfigError),
        (["run.device=tpu"], ConfigError),
    ],
)
def test_the_command_names_mistakes_and_writes_nothing(recipe, tmp_path: Path, overrides: list[str], error) -> None:
    save_recipe(recipe(), tmp_path / "recipe.yaml")
    result = CliRunner().invoke(build_app(), ["prune", str(tmp_path / "recipe.yaml"), *overrides])
    assert isinstance(result.exception, error)
    assert not (tmp_path / "run" / "compact.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(recipe) -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        run_prune(recipe(**{"run.device": "cuda"}))


def test_real_speech(recipe, real_speech: Path) -> None:
    changes = {"data.train": [str(real_speech / "libri_spk")], "data.max_seconds": 1.0, "optimisation.steps": 2}
    assert load(run_prune(recipe(**changes)))
