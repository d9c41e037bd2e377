"""Masked prediction: which frames are hidden, which units they have, and that a run can be stopped and dealt out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.model.checkpoint import load
from pruned_upstream.training.pretrain import (
    MODEL_FILE,
    PretrainRecipe,
    Shape,
    run_pretrain,
)
from pruned_upstream.training.recipe import load_recipe, resolve_recipe
from pruned_upstream.training.units import Targets, log_mel

pytest.importorskip("librosa")
SHAPE = Shape(channels=8, layers=1, dim=16, heads=2, ffn=16, conv_pos=4, conv_pos_groups=2)


@pytest.fixture
def pretraining(tmp_path, recordings):
    def make(folder: str, **changes) -> PretrainRecipe:
        tree = {
            "data": {"train": [str(recordings)], "batch_utterances": 4, "max_seconds": 0.15, "workers": 0},
            "shape": dataclasses.asdict(SHAPE),
            "masking": {"units": 3, "fit_batches": 2, "front_end_steps": 2, "span": 2, "start": 0.3},
            "dropout": {"hidden": 0.1},
            "optimisation": {"steps": 5, "learning_rate": 1e-3} | changes,
            "run": {"folder": str(tmp_path / folder), "device": "cpu", "log_every": 1, "checkpoint_every": 1},
        }
        return resolve_recipe(tree, PretrainRecipe)

    return make


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load(model).state_dict())


def test_a_unit_a_frame():
    config = SHAPE.config()
    generator = torch.Generator().manual_seed(0)
    tone = torch.sin(torch.arange(8000) * 0.3) * 0.5
    speech = torch.cat([tone, torch.randn(8000, generator=generator) * 0.1]).unsqueeze(0)
    targets = Targets.fit([speech], config, units=2, smoothing=3, seed=0)
    mel, units = targets(speech, config)
    assert mel.shape == (1, config.frames(16000), 40) and units.shape == (1, config.frames(16000))
    # a tone and noise are two units, told apart everywhere but where they meet
    assert units[0, :22].unique().numel() == 1 and units[0, 27:].unique().numel() == 1
    assert units[0, 0] != units[0, -1]
    assert torch.allclose(mel.mean((0, 1)), torch.zeros(40), atol=1e-4)


def test_frames_are_cut_as_the_encoder_cuts_them():
    config = SHAPE.config()
    for samples in (400, 719, 720, 16000):
        assert log_mel(torch.zeros(1, samples), config).size(1) == config.frames(samples)


def test_too_little_speech_for_the_units():
    with pytest.raises(DataError, match="3 frames cannot be clustered into 64"):
        Targets.fit([torch.randn(1, 1100)], SHAPE.config(), units=64, smoothing=3, seed=0)


def test_targets_survive_a_file_and_a_foreign_one_is_refused(tmp_path):
    config = SHAPE.config()
    speech = torch.randn(1, 16000)
    targets = Targets.fit([speech], config, units=4, smoothing=3, seed=0)
    targets.save(tmp_path / "targets.pt")
    assert torch.equal(Targets.load(tmp_path / "targets.pt")(speech, config)[1], targets(speech, config)[1])
    (tmp_path / "targets.pt").write_bytes(b"no targets")
    with pytest.raises(CheckpointError, match="remove the file"):
        Targets.load(tmp_path / "targets.pt")


def test_a_stopped_run_ends_with_the_same_weights(pretraining, monkeypatch):
    whole = weights(run_pretrain(pretraining("whole")))
    recipe = pretraining("stopped")
    import pruned_upstream.training.loop as loop

    save_state = loop.save_state

    def killed_after_three(path, state):
        save_state(path, state)
        if state["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", killed_after_three)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(recipe)
    assert not (Path(recipe.run.folder) / MODEL_FILE).exists()
    monkeypatch.undo()
    again = weights(run_pretrain(recipe))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_accumulation_changes_nothing_while_nothing_is_random(pretraining):
    """Masks and dropout are drawn part by part; the front end's steps have neither."""
    runs = []
    for accumulation in (1, 2):
        recipe = pretraining(f"run{accumulation}", accumulation=accumulation, steps=3)
        recipe.dropout.hidden = 0.0
        recipe.optimisation.steps = 3
        recipe.masking.front_end_steps = 3
        runs.append(weights(run_pretrain(recipe)))
    for name, tensor in runs[0].items():
        assert torch.allclose(runs[1][name], tensor, rtol=0, atol=1e-6), name


def test_impossible_recipes(pretraining):
    with pytest.raises(ConfigError, match="masking.smoothing is 4"):
        load_recipe("demo_teacher", ["data.train=x", "masking.smoothing=4"], PretrainRecipe)
    with pytest.raises(ConfigError, match="front_end_steps is 300"):
        load_recipe("demo_teacher", ["data.train=x", "optimisation.steps=200"], PretrainRecipe)
    with pytest.raises(ConfigError, match="did you mean 'shape.layers'"):
        load_recipe("demo_teacher", ["data.train=x", "shape.layer=3"], PretrainRecipe)
