"""Distillation into a shallow student: the loss by hand, the run, resuming, and the ways it can go wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SHAPES, random_encoder
from training.launching import ctrl_c_after, read_metrics, read_state
from typer.testing import CliRunner

from pruned_upstream.cli import build_app
from pruned_upstream.distillation.student import predictions
from pruned_upstream.errors import ConfigError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.distill import DistillRecipe, build_objective, run_distill
from pruned_upstream.training.objectives import Encoded
from pruned_upstream.training.recipe import recipe_yaml, resolve_recipe, save_recipe

DISTILLED = {"distillation": {"teacher_layers": [1, 3]}, "student": {"layers": 2}}


@pytest.fixture
def distilling(recipe, tmp_path: Path) -> Callable[..., DistillRecipe]:
    """distilling(steps=3, student={...}) -> a recipe over the tiny teacher; sections as keywords, merged."""

    def make(steps: int = 3, folder: str = "run", **sections: Any) -> DistillRecipe:
        shared = asdict(recipe(**{"optimisation.steps": steps, "run.folder": str(tmp_path / folder)}))
        tree = {key: shared[key] for key in ("teacher", "data", "dropout", "run")}
        tree |= {"optimisation": {"steps": steps, "learning_rate": 1e-3}}
        for name, given in (DISTILLED | sections).items():
            tree[name] = {**tree.get(name, {}), **given} if isinstance(given, dict) else given
        return resolve_recipe(tree, DistillRecipe)

    return make


def test_the_loss_by_hand(distilling) -> None:
    """Two heads, one valid frame and one of padding: the mean over heads of mean |error| + log(1 + exp(-cosine))."""
    objective = build_objective(distilling())
    with torch.no_grad():
        for head in objective.student.prediction_heads:
            for parameter in head.parameters():
                parameter.zero_()
        objective.student.prediction_heads[0][2].bias.fill_(1.0)  # predicts ones, the second head zeros
    d = objective.student.config.embed_dim
    last = torch.randn(1, 2, d)
    first, second = torch.full((1, 2, d), 3.0), torch.full((1, 2, d), -0.5)
    encoded = Encoded([last] * 3, [last, first, last, second], torch.tensor([[True, False]]))
    wanted = ((2.0 + math.log(1 + math.exp(-1))) + (0.5 + math.log(2))) / 2
    assert objective.distance(encoded).item() == pytest.approx(wanted, rel=1e-6)


def test_a_step_divides_by_the_frames_of_the_batch(distilling) -> None:
    given = distilling()
    objective = build_objective(given)
    corpus = find_corpus(given.data.train, min_samples=40)
    (part,) = Batches(corpus, given.data, seed=0)[0]
    objective.begin_step(0, [part])
    loss = objective.loss(part)
    student = objective.student
    waveforms, lengths = student.prepare(part.wavs, pad_to=part.pad_to)
    with torch.no_grad():
        ours, theirs = student(waveforms, lengths), objective.teacher(waveforms, lengths)
    valid = ~ours.padding_mask
    terms = []
    for prediction, layer in zip(predictions(student, ours.hidden_states[-1]), (1, 3), strict=True):
        a, b = prediction[valid], theirs.hidden_states[layer][valid]
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        terms.append((a - b).abs().mean() - torch.nn.functional.logsigmoid(cosine).mean())
    torch.testing.assert_close(loss, sum(terms) / 2)
    assert objective.frames.item() == valid.sum()


def test_convolutions_hear_a_tenth_of_the_gradient(distilling) -> None:
    def gradients(mult: float) -> dict[str, torch.Tensor]:
        given = distilling(student={"layers": 2, "feature_grad_mult": mult})
        objective = build_objective(given)
        (part,) = Batches(find_corpus(given.data.train, min_samples=40), given.data, seed=0)[0]
        objective.begin_step(0, [part])
        objective.loss(part).backward()
        return {name: p.grad for name, p in objective.student.named_parameters()}

    whole, tenth = gradients(1.0), gradients(0.1)
    assert all(gradient is not None for gradient in whole.values())
    for name, gradient in whole.items():
        factor = 0.1 if name.startswith("feature_extractor.") else 1.0
        torch.testing.assert_close(tenth[name], factor * gradient, rtol=1e-5, atol=1e-9)


def test_a_run_leaves_an_upstream_and_everything_needed_to_repeat_it(distilling, tmp_path: Path) -> None:
    given = distilling(steps=3)
    model = run_distill(given)
    header = read_header(model)
    assert (header.config.num_layers, header.config.prediction_heads) == (2, 0)
    assert header.provenance["recipe"] == recipe_yaml(given)
    assert header.provenance["method"] == "distillation"
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["parameters"] == sum(p.numel() for p in load(model).parameters())
    assert report["predicted_layers"] == [1, 3]
    assert len(load(model).extract([torch.randn(900)]).hidden_states) == 3
    trained = read_state(tmp_path / "run")["objective"]
    for name, tensor in load(model).state_dict().items():
        assert torch.equal(tensor, trained[f"student.{name}"]), name


def test_heads_are_kept_on_request_and_change_no_hidden_state(distilling) -> None:
    dropped = load(run_distill(distilling(folder="dropped")))
    kept = load(run_distill(distilling(folder="kept", distillation={"teacher_layers": [1, 3], "keep_heads": True})))
    assert (kept.config.prediction_heads, dropped.config.prediction_heads) == (2, 0)
    wav = [torch.randn(900)]
    for a, b in zip(kept.extract(wav).hidden_states, dropped.extract(wav).hidden_states, strict=True):
        assert torch.equal(a, b)
    (first, _) = predictions(kept, kept.extract(wav).hidden_states[-1])
    assert first.shape == kept.extract(wav).hidden_states[-1].shape


def test_it_learns(distilling, tmp_path: Path) -> None:
    run_distill(distilling(steps=60))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_an_interrupted_run_ends_with_the_same_bits(distilling, tmp_path: Path) -> None:
    dropout = {"hidden": 0.1, "attention": 0.1, "activation": 0.1}
    whole = run_distill(distilling(steps=6, folder="whole", dropout=dropout))
    stopped = distilling(steps=6, folder="stopped", dropout=dropout)
    with ctrl_c_after(3):
        run_distill(stopped)
    assert read_state(tmp_path / "stopped")["step"] == 3
    assert not (tmp_path / "stopped" / "compact.safetensors").exists()
    again = run_distill(stopped)
    for (name, a), b in zip(load(again).state_dict().items(), load(whole).state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "whole")


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_family_can_teach(distilling, shape: str, tmp_path: Path) -> None:
    save(tmp_path / "other.safetensors", random_encoder(SHAPES[shape]))
    student = load(run_distill(distilling(steps=2, teacher=str(tmp_path / "other.safetensors"))))
    assert student.config.family == SHAPES[shape].family
    assert student.config.is_dense


def test_parts_agree_with_the_whole(distilling, tmp_path: Path) -> None:
    run_distill(distilling(steps=3, folder="whole", optimisation={"eps": 1e-3}))
    run_distill(distilling(steps=3, folder="parts", optimisation={"eps": 1e-3, "accumulation": 2}))
    ours, theirs = read_state(tmp_path / "parts")["objective"], read_state(tmp_path / "whole")["objective"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"student": {"layers": 3}}, r"student\.layers is 3; the teacher has 3 layers"),
        ({"student": {"layers": 0}}, r"student\.layers is 0; it must be at least 1"),
        ({"student": {"feature_grad_mult": 0.0}}, r"student\.feature_grad_mult is 0\.0"),
        ({"distillation": {"teacher_layers": [2, 4]}}, r"distillation\.teacher_layers is \[2, 4\].*from 1 to 3"),
        ({"distillation": {"teacher_layers": [0, 2]}}, r"distillation\.teacher_layers is \[0, 2\]"),
        ({"distillation": {"loss": "l3"}}, r"distillation\.loss is 'l3'; it must be one of mse, l1_minus_cosine"),
    ],
)
def test_mistakes_are_named(distilling, tmp_path: Path, sections: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run_distill(distilling(**sections))
    assert not (tmp_path / "run" / "compact.safetensors").exists()


def test_the_command(distilling, tmp_path: Path) -> None:
    save_recipe(distilling(), tmp_path / "recipe.yaml")
    result = CliRunner().invoke(build_app(), ["distill", str(tmp_path / "recipe.yaml"), "optimisation.steps=2"])
    assert result.exit_code == 0, result.output
    assert "learned to predict layers" in result.output
    assert (tmp_path / "run" / "compact.safetensors").exists()
