"""A file is known by what it holds, whatever it is called; what is not known gets a sentence with what is."""

from __future__ import annotations

import pytest
import torch
from tiny import random_encoder, wavlm_checkpoint

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.convert import SOURCES, load_teacher


def test_names_of_files_do_not_matter(tiny, tmp_path):
    save(tmp_path / "own.pt", random_encoder(tiny.config, seed=5))
    assert load_teacher(tmp_path / "own.pt").config == tiny.config
    torch.save(wavlm_checkpoint(tiny), tmp_path / "wavlm.safetensors")
    assert load_teacher(tmp_path / "wavlm.safetensors").config == tiny.config


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"cfg": {}}, [1, 2], torch.zeros(3)])
def test_an_unknown_file_learns_what_is_known(content, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds .* known are") as error:
        load_teacher(tmp_path / "model.pt")
    assert all(source.description in str(error.value) for source in SOURCES)


@pytest.mark.parametrize(
    "content",
    [
        {"cfg": {"model": None}, "model": {}},
        {"cfg": {"encoder_layers": "many"}, "model": {}},
        {"cfg": {}, "model": [1]},
        {"args": 3, "model": {}},
        {"Config": {}, "Distiller": {}},
        {"model_cfg": {}, "task_cfg": {}, "model_weight": {}},
        {"state_dict": {}, "config": {"encoder_use_attention": 1}},
        {"cfg": {}, "model": {"layer_norm.weight": [1.0]}},
    ],
)
def test_what_looks_known_and_is_not_built_so(content, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="taken for"):
        load_teacher(tmp_path / "model.pt")


def test_damaged_and_missing_files(tiny, tmp_path):
    for path in (tmp_path / "own.safetensors", tmp_path / "wavlm.pt"):
        with pytest.raises(CheckpointError, match="no model file"):
            load_teacher(path)
    save(tmp_path / "own.safetensors", tiny)
    torch.save(wavlm_checkpoint(tiny), tmp_path / "wavlm.pt")
    for path in (tmp_path / "own.safetensors", tmp_path / "wavlm.pt"):
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(CheckpointError, match="truncated"):
            load_teacher(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weight: weight * float("nan"), "NaN or infinity"),
        (lambda weight: weight.to_sparse(), "is sparse"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "is quantised"),
        (lambda weight: weight.to("meta"), "without values"),
        (lambda weight: weight.long(), "of whole or complex numbers"),
        (lambda weight: torch.zeros(1).expand(weight.shape), "stored as fewer numbers than it has"),
    ],
)
def test_weights_that_no_encoder_has(tiny, change, reason, tmp_path):
    checkpoint = wavlm_checkpoint(tiny)
    name = "encoder.layers.0.fc1.weight"
    checkpoint["model"][name] = change(checkpoint["model"][name])
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=reason):
        load_teacher(tmp_path / "a.pt")


@pytest.mark.parametrize("layers", [float("inf"), 10**6, 10**30, "3", None, True, [3]])
def test_counts_of_layers(tiny, layers, tmp_path):
    checkpoint = wavlm_checkpoint(tiny)
    checkpoint["cfg"]["encoder_layers"] = layers
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"encoder_layers|num_layers"):
        load_teacher(tmp_path / "a.pt")
