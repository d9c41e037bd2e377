"""`info`: what it prints of a model file."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import random_encoder, tiny_config, wavlm_checkpoint

from pruned_upstream.description.macs import official_macs
from pruned_upstream.distillation.student import as_streaming
from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS
from pruned_upstream.transformers_plugin.folders import write_folder


@pytest.fixture
def model(tmp_path):
    official_strides = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    encoder = random_encoder(tiny_config(conv_layers=official_strides))
    path = tmp_path / "model.safetensors"
    save(path, encoder, provenance={"teacher": "WavLM-Base", "recipe": "tiny"})
    return path, encoder


def test_json_holds_every_number(invoke, model):
    path, encoder = model
    tree = json.loads(invoke("info", path, "--json"))
    assert tree["provenance"] == {"teacher": "WavLM-Base", "recipe": "tiny"}
    assert tree["parameters"] == sum(p.numel() for p in encoder.parameters()) == tree["parameters_dense"]
    assert sum(tree["parameters_by_part"].values()) == tree["parameters"]
    buckets = official_macs(encoder.config)
    assert [bucket["total"] for bucket in tree["macs_by_bucket"].values()] == [bucket.total for bucket in buckets]
    assert tree["macs"] == sum(bucket.total for bucket in buckets)
    products = sum(bucket.attention_products for bucket in buckets)
    convolution = sum(bucket.position_convolution for bucket in buckets)
    summands = 3 * sum(bucket.position_gate for bucket in buckets)
    seen = tree["macs"] - products + summands
    assert tree["macs_by_official_profiler"] == {"gpu": seen, "cpu": seen - convolution}
    assert tree["nonzero_parameters"] == sum(int(p.count_nonzero()) for p in encoder.parameters())
    assert [layer["qk"] for layer in tree["layers"]] == [[6] * 4] * 3
    assert tree["latency"] == []


def test_the_terminal_names_source_size_cost_and_layers(invoke, model):
    path, encoder = model
    output = invoke("info", path)
    for word in (
        "WavLM-Base",
        "tiny",
        f"{sum(p.numel() for p in encoder.parameters()):,}",
        "longer",
        "not counted",
        "████",
    ):
        assert word in output
    assert "Latency" not in output


def test_a_streaming_model_says_what_it_costs_streamed(invoke, tmp_path):
    official_strides = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    path = tmp_path / "model.safetensors"
    encoder = as_streaming(random_encoder(tiny_config(conv_layers=official_strides)), 0.64, 1.28)
    save(path, encoder, provenance={})
    tree, output = json.loads(invoke("info", path, "--json")), invoke("info", path)
    streamed = sum(bucket.total for bucket in official_macs(encoder.config, streamed=True))
    assert tree["macs_streamed"] == streamed < tree["macs"]
    assert f"{streamed / 1e9:.1f} G" in output and "chunks of 0.64 s, and attends to 1.28 s before each" in output


def test_brackets_in_a_file_name_are_no_markup(invoke, model, monkeypatch):
    path, _ = model
    renamed = path.rename(path.with_name("wavlm[v2].safetensors"))
    monkeypatch.chdir(path.parent)
    assert renamed.name in invoke("info", renamed.name)


def test_a_recipe_is_kept_for_json(invoke, tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, random_encoder(tiny_config()), provenance={"recipe": "steps: 12345\nseed: 0\n"})
    output = invoke("info", path)
    assert "12345" not in output and "2 lines; --json shows them" in output
    assert json.loads(invoke("info", path, "--json"))["provenance"]["recipe"] == "steps: 12345\nseed: 0\n"


def test_latency_is_measured_on_request(invoke, model):
    seconds = ("--seconds", "0.2", "--seconds", "0.5")
    (short, long) = json.loads(invoke("info", model[0], "--json", "--latency", *seconds))["latency"]
    assert (short["utterance_seconds"], long["utterance_seconds"]) == (0.2, 0.5)
    assert short["compact"] > 0 and short["speedup"] == pytest.approx(short["dense"] / short["compact"])


def test_a_device_that_is_not_there_is_refused(invoke, model):
    with pytest.raises(ConfigError, match="the device 'tpu' cannot be used"):
        invoke("info", model[0], "--latency", "--device", "tpu")


def test_the_picture_is_drawn_on_request(invoke, model, tmp_path):
    pytest.importorskip("matplotlib")
    invoke("info", model[0], "--plot", tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_file_is_refused(invoke, tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        invoke("info", tmp_path / "nothing.safetensors")


def test_published_checkpoints_are_named_with_the_command_that_converts_them(tmp_path):
    encoder = random_encoder(tiny_config())
    torch.save(wavlm_checkpoint(encoder), tmp_path / "teacher.pt")
    torch.save(wavlm_checkpoint(encoder), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    write_folder(tmp_path / "folder", encoder, {})
    for name, converted in [
        ("teacher.pt", "teacher.pt"),
        ("old.pt", "old.pt"),
        ("folder", "folder"),
        ("folder/model.safetensors", "folder"),
    ]:
        with pytest.raises(CheckpointError, match=f"convert {tmp_path / converted} OUT.safetensors"):
            load(tmp_path / name)
