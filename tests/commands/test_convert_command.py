"""A published checkpoint becomes a file of ours, and a foreign one a sentence with exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import random_encoder, tiny_config

from pruned_upstream.model.checkpoint import load, read_header, save


def convert(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pruned_upstream.cli", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_checkpoint_is_written_as_it_is(tmp_path):
    encoder = random_encoder(tiny_config())
    save(tmp_path / "in.safetensors", encoder)
    done = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert "wavlm, 0.0" in done.stdout
    again = load(tmp_path / "out.safetensors").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.state_dict().items())
    assert read_header(tmp_path / "out.safetensors").provenance["method"] == "conversion"


def test_a_mistake_is_a_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "in.pt").write_bytes(b"nothing like a checkpoint")
    done = convert(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_fairseqs_files_are_known_by_what_they_hold(tmp_path):
    pytest.importorskip("s3prl.upstream.hubert.hubert_model")
    from published import fairseq_model, since_hydra, write

    model, options = fairseq_model("hubert")
    write(since_hydra(model, options, normalize=False), tmp_path / "whatever")
    done = convert(tmp_path / "whatever", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert "hubert, 0.0" in done.stdout
    assert load(tmp_path / "out.safetensors").config.family == "hubert"


def test_an_unknown_file_learns_what_is_known(tmp_path):
    torch.save({"weights": 1}, tmp_path / "in.pt")
    done = convert(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert done.returncode == 2
    assert "holds the keys ['weights']; known are" in done.stderr
    assert "WavLM ('cfg' and 'model')" in done.stderr and "DPHuBERT" in done.stderr
