"""Masked prediction: which frames are hidden, which units they have, and that a run can be stopped and dealt out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.model.checkpoint import load
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batch
from pruned_upstream.training.pretrain import (
    MODEL_FILE,
    PretrainRecipe,
    Shape,
    run_pretrain,
)
from pruned_upstream.training.recipe import flat_keys, load_recipe, resolve_recipe
from pruned_upstream.training.units import FrameLabels, Targets, log_mel

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


def test_the_command_ends_with_its_page(pretraining, recordings, tmp_path, exit_code):
    recipe = pretraining("run")
    settings = [f"{key}={value}" for key, value in flat_keys(recipe).items() if value is not None]
    assert exit_code("pretrain", "demo_teacher", *settings) == 0
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "README.md").exists()
    assert exit_code("pretrain", "demo_teacher", *settings, "masking.front_end_steps=5") == 2


def test_spans_that_hide_whole_recordings_are_refused(pretraining, caplog):
    recipe = pretraining("run")
    wide = dataclasses.replace(recipe, masking=dataclasses.replace(recipe.masking, span=7))
    with pytest.raises(ConfigError, match=r"masking\.span is 7 frames, and no recording.*has more than 7: "):
        run_pretrain(wide)
    run_pretrain(dataclasses.replace(recipe, masking=dataclasses.replace(recipe.masking, span=4)))
    assert "3 of 7 recordings have no more frames than masking.span (4)" in caplog.text


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load(model).state_dict())


def test_a_unit_a_frame():
    config = SHAPE.config()
    generator = torch.Generator().manual_seed(0)
    tone = torch.sin(torch.arange(8000) * 0.3) * 0.5
    speech = torch.cat([tone, torch.randn(8000, generator=generator) * 0.1]).unsqueeze(0)
    targets = Targets.fit([speech], config, units=2, smoothing=3, seed=0)
    mel = log_mel(speech, config)
    mel, units = targets.mel(mel), targets.clusters(mel)
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
    mel, again = log_mel(speech, config), Targets.load(tmp_path / "targets.pt")
    assert torch.equal(again.clusters(mel), targets.clusters(mel)) and torch.equal(again.mel(mel), targets.mel(mel))
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


def labelled(tmp_path, recordings: Path, line: Callable[[int], str]) -> Path:
    """A manifest of the recordings and, beside it, a line of labels for each, made from its number of frames."""
    files = sorted(recordings.rglob("*.wav"))
    manifest = tmp_path / "train.tsv"
    manifest.write_text("\n".join([str(recordings), *(f"{file.relative_to(recordings)}\t1" for file in files)]) + "\n")
    lines = [line(SHAPE.config().frames(soundfile.info(file).frames)) for file in files]
    manifest.with_suffix(".km").write_text("\n".join(lines) + "\n")
    return manifest


def counted(frames: int) -> str:
    return " ".join(map(str, range(frames)))


def read_labels(manifest: Path, units: int) -> FrameLabels:
    return FrameLabels.read([manifest], "km", find_corpus([manifest], min_samples=400), SHAPE.config(), units=units)


def test_given_labels_reach_the_frames_they_belong_to(tmp_path, recordings):
    labels = read_labels(labelled(tmp_path, recordings, counted), units=1000)
    wavs = [torch.zeros(1040), torch.zeros(720)]  # 3 frames, and the last 2 of 7
    part = Batch(wavs, pad_to=1040, utterances=[6, 0], starts=[640, 1680], seed=0, skipped={})
    assert labels(part, SHAPE.config()).tolist() == [[2, 3, 4], [5, 6, 6]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda frames: "0 1 x", "numbers from 0 to 2"),
        (lambda frames: "0 1 \u00b2", "numbers from 0 to 2"),
        (lambda frames: "0 1 3", "numbers from 0 to 2"),
        (lambda frames: "0 " * (frames - 1), "each frame needs one"),
        (lambda frames: "0 " * (frames + 6), "each frame needs one"),
    ],
)
def test_labels_that_cannot_be(tmp_path, recordings, line, message):
    with pytest.raises(DataError, match=message):
        read_labels(labelled(tmp_path, recordings, line), units=3)


def test_labels_lie_beside_manifests(tmp_path, recordings):
    corpus = find_corpus([recordings], min_samples=400)
    with pytest.raises(DataError, match="is no manifest"):
        FrameLabels.read([recordings], "km", corpus, SHAPE.config(), units=3)


def test_targets_of_another_fit_are_not_taken(pretraining):
    """Of a launch that was given up before its first state, say."""
    recipe = pretraining("run")
    run_pretrain(recipe)
    folder = Path(recipe.run.folder)
    before = Targets.load(folder / "targets.pt")
    (folder / "state.pt").unlink()
    recipe.masking.units = 2
    run_pretrain(recipe)
    assert len(before.clusters.centroids) == 3
    assert len(Targets.load(folder / "targets.pt").clusters.centroids) == 2


def test_given_labels_are_learned(tmp_path, recordings, pretraining):
    """All frames have one label: soon there is nothing left to learn, which no clusters would allow."""
    recipe = pretraining("given", steps=30, learning_rate=1e-2)
    recipe.data.train = [str(labelled(tmp_path, recordings, lambda frames: "2 " * frames))]
    recipe.masking.labels = "km"
    run_pretrain(recipe)
    rows = [json.loads(line) for line in (Path(recipe.run.folder) / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["accuracy"] == 1.0 and rows[-1]["loss"] < 0.1


def test_frames_that_are_seen_count_by_their_weight(pretraining, monkeypatch):
    """The loss is the weighted mean of the frames' cross-entropies, of those that are padded none."""
    import pruned_upstream.training.pretrain as pretrain

    seen = {}

    class Once(pretrain.MaskedPrediction):
        def loss(self, part):
            found = super().loss(part)
            seen.setdefault(self.recipe.masking.unmasked, (found.item(), self.frames.item(), self.hidden.item()))
            return found

    monkeypatch.setattr(pretrain, "MaskedPrediction", Once)
    for weight in (0.0, 0.5, 1.0):
        recipe = pretraining(f"weight{weight}")
        recipe.optimisation.steps, recipe.masking.front_end_steps = 1, 0
        recipe.masking.unmasked, recipe.dropout.hidden = weight, 0.0
        run_pretrain(recipe)
    (alone, hidden, _), (half, _, _), (both, valid, _) = seen[0.0], seen[0.5], seen[1.0]
    assert 0 < hidden < valid and seen[1.0][2] == hidden
    others = (both * valid - alone * hidden) / (valid - hidden)
    total = hidden + 0.5 * (valid - hidden)
    assert half == pytest.approx((alone * hidden + 0.5 * others * (valid - hidden)) / total, rel=1e-5)


def test_a_training_goes_on_from_another_model(pretraining):
    first = run_pretrain(pretraining("first"))
    recipe = pretraining("second", learning_rate=1e-12)
    recipe.optimisation.steps, recipe.masking.front_end_steps = 1, 0
    recipe.start = str(first)
    after, before = weights(run_pretrain(recipe)), weights(first)
    assert all(torch.allclose(after[name], tensor, rtol=0, atol=1e-6) for name, tensor in before.items())
    recipe = pretraining("third")
    recipe.start, recipe.shape.ffn = str(first), 24
    with pytest.raises(ConfigError, match="another shape"):
        run_pretrain(recipe)


def test_impossible_recipes(pretraining):
    with pytest.raises(ConfigError, match="masking.smoothing is 4"):
        load_recipe("demo_teacher", PretrainRecipe, ["data.train=x", "masking.smoothing=4"])
    with pytest.raises(ConfigError, match="front_end_steps is 300"):
        load_recipe("demo_teacher", PretrainRecipe, ["data.train=x", "optimisation.steps=200"])
    with pytest.raises(ConfigError, match="did you mean 'shape.layers'"):
        load_recipe("demo_teacher", PretrainRecipe, ["data.train=x", "shape.layer=3"])
