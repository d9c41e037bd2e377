"""torchaudio's file functions on soundfile."""

from __future__ import annotations

import pytest
import soundfile
import torch

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin import audio_io


@pytest.fixture
def stereo(tmp_path):
    wav = torch.tensor([[0.5, -0.25, 0.125, 0.0], [1 / 32768, -1.0, 0.75, 0.5]])
    soundfile.write(tmp_path / "stereo.wav", wav.T.numpy(), 8000, subtype="PCM_16")
    return tmp_path / "stereo.wav", wav


def test_sixteen_bits_are_read_exactly(stereo):
    path, wav = stereo
    read, rate = audio_io.load(path)
    assert rate == 8000 and read.dtype == torch.float32
    assert torch.equal(read, wav)
    assert torch.equal(audio_io.load(str(path), channels_first=False)[0], wav.T)


def test_a_part_is_read(stereo):
    path, wav = stereo
    assert torch.equal(audio_io.load(path, frame_offset=1, num_frames=2)[0], wav[:, 1:3])


def test_info(stereo):
    assert audio_io.info(stereo[0]) == (8000, 4, 2, 16, "PCM_S")


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_what_is_saved_is_read_back(tmp_path, name):
    wav = torch.randn(1, 100, generator=torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    audio_io.save(tmp_path / name, wav, sample_rate=16000)
    read, rate = audio_io.load(tmp_path / name)
    assert rate == 16000
    assert torch.allclose(read, wav, atol=0 if name.endswith("wav") else 2**-15)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.flac").touch()
    for name, words in [("missing.wav", "there is no audio file"), ("text.wav", "text.wav"), ("empty.flac", "empty")]:
        for read in (audio_io.load, audio_io.info):
            with pytest.raises(DataError, match=words):
                read(tmp_path / name)
