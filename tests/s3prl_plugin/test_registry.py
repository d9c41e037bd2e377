"""The names behind -u."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from tiny import random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.checkpoint import save
from pruned_upstream.parp.masks import magnitude_masks, prunable_weights
from pruned_upstream.parp.rounds import MODULES
from pruned_upstream.s3prl_plugin import registry


@pytest.fixture
def hub():
    hub = ModuleType("hub")
    registry.add_entries(hub)
    return hub


def test_every_name_is_a_function_of_that_name(hub):
    names = ["pruned_upstream", "pruned_wavlm", "pruned_hubert", "pruned_wav2vec2", "pruned_data2vec"]
    for name in [*names, "distil_wavlm", "parp_wav2vec2", "parp_hubert", "parp_wavlm"]:
        assert getattr(hub, name).__name__ == name


@pytest.mark.parametrize("name", ["pruned_upstream", "pruned_wavlm", "distil_wavlm"])
def test_a_wavlm_is_taken(hub, name, model_file):
    assert getattr(hub, name)(ckpt=str(model_file)).model.config.family == "wavlm"


@pytest.mark.parametrize("name", ["pruned_hubert", "pruned_wav2vec2", "pruned_data2vec", "parp_wav2vec2"])
def test_another_family_is_refused(hub, name, model_file):
    with pytest.raises(CheckpointError, match=f"family wavlm, and the upstream {name} takes"):
        getattr(hub, name)(ckpt=str(model_file))


def test_a_deployed_file_insists_on_its_family_and_takes_no_options(hub, onnx_file, tmp_path):
    assert hub.pruned_wavlm(ckpt=str(onnx_file)).model.config.family == "wavlm"
    with pytest.raises(CheckpointError, match="family wavlm, and the upstream pruned_hubert takes"):
        hub.pruned_hubert(ckpt=str(onnx_file))
    options = tmp_path / "bf16.yaml"
    options.write_text("precision: bf16\n")
    with pytest.raises(ConfigError, match=r"compact\.onnx .* takes no options; leave out -g"):
        hub.pruned_wavlm(ckpt=str(onnx_file), model_config=str(options))


def test_without_a_path_the_environment_names_the_file(hub, model_file, monkeypatch):
    monkeypatch.delenv(registry.CHECKPOINT_VARIABLE, raising=False)
    with pytest.raises(CheckpointError, match="name it with -k"):
        hub.pruned_wavlm(ckpt=None, model_config=None, refresh=False)
    monkeypatch.setenv(registry.CHECKPOINT_VARIABLE, str(model_file))
    assert hub.pruned_wavlm(refresh=True).model.config.num_layers == 3


@torch.no_grad()
def test_bf16_is_an_option(hub, model_file, tmp_path):
    options = tmp_path / "bf16.yaml"
    options.write_text("precision: bf16\n")
    wavs = [torch.randn(4000, generator=torch.Generator().manual_seed(0))]
    exact = hub.pruned_wavlm(ckpt=str(model_file))(wavs)["last_hidden_state"]
    rounded = hub.pruned_wavlm(ckpt=str(model_file), model_config=str(options))(wavs)["last_hidden_state"]
    assert rounded.dtype == torch.float32
    assert 1e-5 < (rounded - exact).abs().max() / exact.abs().max() < 0.1


@pytest.mark.parametrize("text", ["precision: fp8", "device: cuda", "- precision", "{"])
def test_other_options_are_refused(hub, model_file, tmp_path, text):
    options = tmp_path / "options.yaml"
    options.write_text(text)
    with pytest.raises(ConfigError, match=r"precision|options\.yaml"):
        hub.pruned_wavlm(ckpt=str(model_file), model_config=str(options))
    with pytest.raises(ConfigError, match="cannot be read"):
        hub.pruned_wavlm(ckpt=str(model_file), model_config=str(tmp_path / "absent.yaml"))


def test_a_model_of_survivors_is_an_upstream(hub, tmp_path):
    encoder = random_encoder(tiny_config())
    masks = magnitude_masks(prunable_weights(encoder, MODULES), 0.8)
    with torch.no_grad():
        for name, mask in masks.items():
            encoder.get_parameter(name).mul_(mask)
        save(tmp_path / "parp.safetensors", encoder, masks=masks)
        wavs = unequal_waveforms()
        given = hub.parp_wavlm(ckpt=str(tmp_path / "parp.safetensors")).eval()(wavs)["hidden_states"]
        for ours, wanted in zip(given, encoder.extract(wavs).hidden_states, strict=True):
            assert torch.equal(ours, wanted)
    with pytest.raises(CheckpointError, match="family wavlm, and the upstream parp_hubert takes hubert alone"):
        hub.parp_hubert(ckpt=str(tmp_path / "parp.safetensors"))
