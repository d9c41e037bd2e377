"""Our own file: what it keeps, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_encoder, unequal_waveforms

import pruned_upstream.files as files
from pruned_upstream.errors import CheckpointError, ConfigError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.config import EncoderConfig, Head, TransformerLayer


@pytest.fixture
def saved(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, tiny, provenance={"teacher": "random"})
    return path


def rewrite(path, *, metadata=None, tensors=None):
    """The same file with some metadata or tensors exchanged."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    save_file(tensors or load_file(path), path, metadata=kept | (metadata or {}))


def test_round_trip(shape, tmp_path):
    encoder = random_encoder(shape)
    path = tmp_path / "model.safetensors"
    save(path, encoder, provenance={"teacher": "random"})
    again = load(path)
    assert again.config == encoder.config
    assert not again.training
    assert read_header(path).provenance == {"teacher": "random"}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with torch.no_grad():
        wavs = unequal_waveforms()
        for ours, theirs in zip(again.extract(wavs).hidden_states, encoder.extract(wavs).hidden_states, strict=True):
            assert torch.equal(ours, theirs)


def test_ragged_shape_survives(tmp_path, tiny):
    layers = (
        TransformerLayer(True, (Head(1, 0, 3), Head(3, 5, 1)), True, 7),
        TransformerLayer(True, (), True, 0),
        TransformerLayer(False, (), False, 0),
    )
    encoder = random_encoder(dataclasses.replace(tiny.config, layers=layers))
    save(tmp_path / "ragged.safetensors", encoder)
    again = load(tmp_path / "ragged.safetensors")
    assert again.config.layers == layers
    with torch.no_grad():
        wavs = unequal_waveforms()
        for ours, theirs in zip(again.extract(wavs).hidden_states, encoder.extract(wavs).hidden_states, strict=True):
            assert torch.equal(ours, theirs)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(saved)
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_is_read_as_single(saved, tiny):
    rewrite(saved, tensors={name: tensor.half() for name, tensor in tiny.state_dict().items()})
    assert {p.dtype for p in load(saved).parameters()} == {torch.float32}


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)


def test_truncated_empty_and_foreign(saved, tmp_path):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load(saved)
    saved.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        load(saved)
    saved.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        load(saved)
    save_file({"a": torch.zeros(1)}, saved, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="another program"):
        load(saved)


def test_unknown_version_and_metadata(saved):
    rewrite(saved, metadata={"version": "99"})
    with pytest.raises(CheckpointError, match="version 99"):
        load(saved)
    rewrite(saved, metadata={"version": "1", "colour": "red"})
    with pytest.raises(CheckpointError, match="colour"):
        load(saved)


def test_tensors_that_do_not_fit_are_named(saved):
    whole = load_file(saved)
    rewrite(saved, tensors={name: tensor for name, tensor in whole.items() if name != "layer_norm.bias"})
    with pytest.raises(CheckpointError, match=r"missing tensors layer_norm\.bias"):
        load(saved)
    rewrite(saved, tensors=whole | {"stowaway": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="unexpected stowaway"):
        load(saved)
    rewrite(saved, tensors=whole | {"layer_norm.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"layer_norm\.bias has shape \(3,\)"):
        load(saved)


def test_a_full_disk_leaves_the_old_file(saved, tiny, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PrunedUpstreamError, match="No space left on device"):
        save(saved, tiny)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "whisper"}, "unknown model family"),
        ({"num_heads": 5}, "not divisible"),
        ({"layers": []}, "at least one"),
        ({"embed_dim": "24"}, "must be of type int"),
        ({"tempo": 3}, "unknown keys"),
    ],
)
def test_impossible_descriptions(tiny, change, message):
    tree = json.loads(tiny.config.to_json()) | change
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    "layer",
    [
        TransformerLayer(True, (Head(3, 2, 2), Head(1, 2, 2)), True, 4),
        TransformerLayer(True, (Head(0, 2, 0),), True, 4),
        TransformerLayer(False, (Head(0, 2, 2),), True, 4),
        TransformerLayer(True, (), False, 4),
        TransformerLayer(True, (), True, 41),
    ],
)
def test_impossible_layers(tiny, layer):
    with pytest.raises(ConfigError, match="layer 0"):
        dataclasses.replace(tiny.config, layers=(layer,) * 3)
