"""Published WavLM files: the shape comes from their cfg, every key is accounted for, nothing in them runs."""

from __future__ import annotations

import os

import pytest
import torch
from tiny import largest_difference, random_encoder, tiny_config, unequal_waveforms, wavlm_checkpoint

from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.convert.shapes import parse_conv_layers
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


def test_conv_layers_are_parsed_not_run(tmp_path):
    assert parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2") == ((512, 10, 5), (512, 3, 2), (512, 3, 2))
    trace = tmp_path / "trace"
    for text in (f"__import__('os').mkdir({str(trace)!r})", "[(512,10)]", "[(1,2,3)] * 999999999", "", "[('a',1,1)]"):
        with pytest.raises(ConfigError, match="conv_feature_layers"):
            parse_conv_layers(text)
    assert not trace.exists()


class Foreign:
    """A class that the checkpoint's reader need not know."""


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_does_not_run(tiny, tmp_path):
    trace = tmp_path / "trace"
    torch.save(published(tiny) | {"extra": Bomb(str(trace))}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        load_teacher(tmp_path / "bomb.pt")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files(tiny, tmp_path, suffix):
    path = tmp_path / f"teacher{suffix}"
    torch.save(published(tiny), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_teacher(path)


def test_foreign_files(tiny, tmp_path):
    path = tmp_path / "teacher.pt"
    with pytest.raises(CheckpointError, match="no model file"):
        load_teacher(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="'cfg' and 'model'"):
        load_teacher(path)
    torch.save({"cfg": Foreign(), "model": {}}, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_teacher(path)
    path.write_text("not a checkpoint at all")
    with pytest.raises(CheckpointError, match="truncated|no checkpoint"):
        load_teacher(path)


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


def test_folders(tmp_path):
    with pytest.raises(CheckpointError, match="without config.json"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(CheckpointError, match="whisper"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_teacher(tmp_path)


def test_own_file(tiny, tmp_path):
    from pruned_upstream.model.checkpoint import save

    save(tmp_path / "own.safetensors", random_encoder(tiny.config, seed=5))
    assert load_teacher(tmp_path / "own.safetensors").config == tiny.config
