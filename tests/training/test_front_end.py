"""A light front end: its frames, what it learns first, and what becomes of it in every method."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config
from training.launching import ctrl_c_after, read_metrics

from pruned_upstream.description.macs import count_macs
from pruned_upstream.errors import ConfigError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS, EncoderConfig, light_front_end, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters
from pruned_upstream.training.distill import DistillRecipe, run_distill
from pruned_upstream.training.front_end import FOLDER, with_light_front_end
from pruned_upstream.training.front_end import MODEL_FILE as FRONT_END_FILE
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import load_recipe, resolve_recipe

PUBLISHED = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
LIGHT = {"front_end": "light", "front_end_stage.steps": 40, "front_end_stage.learning_rate": 3e-3}


@pytest.fixture
def light(recipe, tmp_path: Path):
    """light(**changes) -> a recipe with a light front end over a tiny teacher of the published frame rate."""
    teacher = tmp_path / "published.safetensors"
    save(teacher, random_encoder(tiny_config(conv_layers=PUBLISHED)))
    return lambda **changes: recipe(**{"teacher": str(teacher), "optimisation.steps": 3} | LIGHT | changes)


def test_a_twentieth_of_the_computing_and_the_same_frames() -> None:
    full = wavlm_base_config()
    slim = light_front_end(full)
    assert count_macs(slim, 80_000).front_end <= 0.05 * count_macs(full, 80_000).front_end
    assert (slim.downsample_rate, slim.receptive_field) == (320, 400)
    assert all(slim.frames(samples) == full.frames(samples) for samples in range(5000))
    assert slim.is_dense and EncoderConfig.from_json(slim.to_json()) == slim
    with torch.device("meta"):
        assert sum(p.numel() for p in Encoder(slim).parameters()) == count_parameters(slim)


@pytest.mark.parametrize("family", sorted(name for name in SHAPES if SHAPES[name].family != "whisper"))
def test_all_but_the_convolutions_is_the_teachers(family) -> None:
    config = dataclasses.replace(SHAPES[family], conv=tiny_config(conv_layers=PUBLISHED).conv)
    teacher = random_encoder(config)
    student = with_light_front_end(teacher)
    assert student.config.feature_dim == teacher.config.feature_dim
    assert student.config.extractor_mode == teacher.config.extractor_mode
    projected = torch.randn(2, 7, 24)
    with torch.no_grad():
        ours, theirs = student.contextualize(projected), teacher.contextualize(projected)
    assert largest_difference(ours, theirs) == 0.0


def test_other_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="a frame of 400 samples every 320; this encoder has 30 and 20"):
        light_front_end(tiny_config())


def test_pruning(light, tmp_path: Path) -> None:
    model = load(run_prune(light()))
    stage = read_metrics(tmp_path / "run" / FOLDER)
    assert len(stage) == 40
    assert float(stage[-1]["residual"]) < 0.9 * float(stage[0]["residual"])
    first = load(tmp_path / "run" / FOLDER / FRONT_END_FILE)
    assert model.config.conv == first.config.conv == light_front_end(model.config).conv
    ours, before = model.feature_extractor.state_dict(), first.feature_extractor.state_dict()
    assert not any(torch.equal(ours[name], before[name]) for name in ours)  # it went on learning with the rest


def test_channels_of_a_light_front_end_can_be_pruned(light) -> None:
    wanted = {"gates.conv": True, "sparsity.scope": "everything", "sparsity.exact": True}
    assert not load(run_prune(light(**wanted))).config.is_dense


def test_an_interrupted_stage_resumes(light, tmp_path: Path) -> None:
    whole = load(run_prune(light(**{"run.folder": str(tmp_path / "whole")}))).state_dict()
    with ctrl_c_after(11):
        run_prune(light())
    resumed = load(run_prune(light())).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_distillation(light, tmp_path: Path) -> None:
    shared = dataclasses.asdict(light())
    tree = {key: shared[key] for key in ("teacher", "data", "run", "front_end", "front_end_stage")}
    recipe = resolve_recipe(tree | {"optimisation": {"steps": 2}, "student": {"layers": 1}}, DistillRecipe)
    assert load(run_distill(recipe)).config.conv == light_front_end(tiny_config(conv_layers=PUBLISHED)).conv


def test_another_front_end_is_refused(recipe) -> None:
    with pytest.raises(ConfigError, match="front_end is 'tiny'; it must be one of full, light"):
        recipe(front_end="tiny")


def test_the_recipe_that_comes_with_the_package() -> None:
    from pruned_upstream.training.prune import PruneRecipe

    recipe = load_recipe("wavlm_base_light", PruneRecipe, ["teacher=t", "data.train=d"])
    assert recipe.front_end == "light" and recipe.distillation.groups == [[0], [3, 6, 9, 12]]


@pytest.mark.parametrize(
    "mistake",
    [
        {"distillation.groups": [[0], [3, 6, 9, 12]]},
        {"distillation.teacher_layers": [2, 4]},
        {"streaming.chunk_seconds": 0.001},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_mistake_in_what_follows_is_told_ahead_of_the_front_ends_stage(light, tmp_path: Path, mistake: dict) -> None:
    """As of recipe `fast` for a teacher of six layers, whose stage of 20 000 steps would have come first."""
    with pytest.raises(ConfigError, match=next(iter(mistake)).partition(".")[0]):
        run_prune(light(**mistake))
    assert not (tmp_path / "run" / FOLDER / "metrics.jsonl").exists()


def test_a_shallow_students_mistake_is_told_as_early(light, tmp_path: Path) -> None:
    given = light()
    tree = {
        "teacher": given.teacher,
        "data": {"train": given.data.train, "workers": 0},
        "front_end": "light",
        "distillation": {"teacher_layers": [4, 8, 12]},
        "optimisation": {"steps": 2},
        "run": {"folder": str(tmp_path / "shallow"), "device": "cpu"},
    }
    with pytest.raises(ConfigError, match="distillation.teacher_layers is .*; it must name rising layers from 1 to 3"):
        run_distill(resolve_recipe(tree, DistillRecipe))
    assert not (tmp_path / "shallow" / FOLDER / "metrics.jsonl").exists()
