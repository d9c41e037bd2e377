"""Published WavLM files: the shape comes from their cfg, and every key is accounted for."""

from __future__ import annotations

import pytest
import torch
from tiny import largest_difference, tiny_config, unequal_waveforms, wavlm_checkpoint

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.convert.wavlm import wavlm_config


def published(encoder, **cfg):
    """The dictionary that a published file of this encoder holds, with other options."""
    checkpoint = wavlm_checkpoint(encoder)
    return checkpoint | {"cfg": checkpoint["cfg"] | {"dropout": 0.1} | cfg}


@torch.no_grad()
def test_published_file(tiny, tmp_path):
    torch.save(published(tiny), tmp_path / "WavLM-tiny.pt")
    teacher = load_teacher(tmp_path / "WavLM-tiny.pt")
    assert teacher.config == tiny_config()
    wavs = unequal_waveforms()
    assert largest_difference(teacher.extract(wavs).hidden_states, tiny.extract(wavs).hidden_states) == 0.0


def test_published_base_cfg():
    base = {
        "extractor_mode": "default",
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "max_distance": 800,
        "normalize": False,
    }
    assert wavlm_config(base) == wavlm_base_config()
    assert wavlm_config(base | {"max_distance": 1280}).relative_position.max_distance == 1280


def test_every_key_is_accounted_for(tiny, tmp_path):
    path = tmp_path / "teacher.pt"
    checkpoint = published(tiny)
    torch.save({"cfg": checkpoint["cfg"], "model": checkpoint["model"] | {"stowaway": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="stowaway"):
        load_teacher(path)
    torch.save(published(tiny, encoder_ffn_embed_dim=41), path)
    with pytest.raises(CheckpointError, match=r"fc1\.(weight|bias) has shape"):
        load_teacher(path)
    torch.save(published(tiny, activation_fn="relu"), path)
    with pytest.raises(CheckpointError, match="relu"):
        load_teacher(path)
