"""An upstream that s3prl's runner finetuned (-f) comes back as a model file."""

from __future__ import annotations

import argparse

import pytest
import torch
from tiny import largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.s3prl_plugin.expert import UpstreamExpert


@pytest.fixture
def finetuned(tmp_path):
    """(checkpoint, base, the encoder after a step): the states that s3prl 0.4.18's runner saves for trained models."""
    base = tmp_path / "compact.safetensors"
    save(base, random_encoder(tiny_config()))
    expert = UpstreamExpert(base).train()
    optimiser = torch.optim.Adam([p for p in expert.parameters() if p.requires_grad], 1e-2)
    expert(unequal_waveforms())["hidden_states"][-1].square().mean().backward()
    optimiser.step()
    states = {
        "Optimizer": optimiser.state_dict(),
        "Step": 1,
        "Epoch": 0,
        "Args": argparse.Namespace(upstream="pruned_wavlm", upstream_ckpt=str(base), downstream="ctc"),
        "Config": {"runner": {"total_steps": 1}},
        "Upstream": expert.state_dict(),
        "Featurizer": {"weights": torch.zeros(4)},
        "Downstream": {"linear.weight": torch.zeros(2, 24)},
    }
    path = tmp_path / "states-1.ckpt"
    torch.save(states, path)
    return path, base, expert.model.eval()


def rewrite(path, **changes):
    states = torch.load(path, weights_only=False)
    for name, value in changes.items():
        if value is None:
            del states[name]
        else:
            states[name] = value
    torch.save(states, path)


@torch.no_grad()
def test_what_the_task_left_comes_back(finetuned, tmp_path, invoke):
    path, base, encoder = finetuned
    invoke("convert", path, tmp_path / "back.safetensors")
    back, before = load(tmp_path / "back.safetensors"), load(base)
    wavs = unequal_waveforms()
    expected = encoder.extract(wavs)
    assert largest_difference(back.extract(wavs).hidden_states, expected.hidden_states) == 0
    assert largest_difference(before.extract(wavs).hidden_states, expected.hidden_states) > 1e-3
    again = UpstreamExpert(tmp_path / "back.safetensors").eval()(wavs)["hidden_states"]
    assert largest_difference(list(again), expected.hidden_states) == 0


def test_a_base_that_has_moved(finetuned, tmp_path, invoke):
    path, base, _ = finetuned
    base.rename(tmp_path / "moved.safetensors")
    with pytest.raises(CheckpointError, match=r"finetuned from .*compact\.safetensors.*--base"):
        load_teacher(path)
    invoke("convert", path, tmp_path / "back.safetensors", "--base", tmp_path / "moved.safetensors")
    assert load(tmp_path / "back.safetensors").config == tiny_config()


def test_another_base_is_refused(finetuned, tmp_path):
    path, _, _ = finetuned
    save(tmp_path / "other.safetensors", random_encoder(tiny_config(ffn_dim=44)))
    with pytest.raises(CheckpointError, match="has shape"):
        load_teacher(path, base=tmp_path / "other.safetensors")


def test_without_f_there_is_nothing_to_convert(finetuned):
    path, _, _ = finetuned
    rewrite(path, Upstream=None)
    with pytest.raises(CheckpointError, match="trained without -f.*nothing to convert"):
        load_teacher(path)


def test_upstreams_of_others(finetuned):
    path, _, _ = finetuned
    rewrite(path, Upstream={"extractor.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="not one of this package"):
        load_teacher(path)
    rewrite(path, Args=argparse.Namespace(upstream="wavlm_base", upstream_ckpt=None))
    with pytest.raises(CheckpointError, match="wavlm_base is not one of this package"):
        load_teacher(path)
