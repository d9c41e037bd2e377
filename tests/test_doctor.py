"""The doctor answers where what it examines is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruned_upstream import doctor

ROOT = Path(__file__).parents[1]
SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """shadow(package, code): what stands in front of the installed package."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(package: str, code: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)

    return put


def test_a_healthy_part(tmp_path):
    python, disk = doctor.examine(["python", "disk"])
    assert (python.state, disk.state) == (doctor.GOOD, doctor.GOOD) and "GB" in disk.words
    assert doctor.is_healthy([python, disk])


def test_broken_parts_are_told_with_a_remedy(shadow):
    shadow("soundfile", "raise OSError('cannot load library libsndfile.so')")
    shadow("flashlight", SEGFAULT)
    shadow("onnx", "import absent_part")
    audio, kenlm, onnx = doctor.examine(["audio formats", "kenlm", "onnxruntime"])
    assert audio.state == kenlm.state == onnx.state == doctor.BROKEN
    assert "libsndfile.so" in audio.words and "pip install --force-reinstall --no-deps soundfile" in audio.remedy
    assert "SIGSEGV" in kenlm.words and "flashlight-text" in kenlm.remedy
    assert "absent_part" in onnx.words
    assert not doctor.is_healthy([audio])


def test_what_lies_below_is_to_be_mended_first(shadow):
    shadow("torch", "raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    torch, gpu, torchaudio = doctor.examine(["torch", "gpu", "torchaudio"])
    assert torch.state == torchaudio.state == doctor.BROKEN
    assert torchaudio.remedy == gpu.remedy == "mend torch first"
    assert "pip install" in torch.remedy


def test_the_command_starts_without_torch(tmp_path):
    for package in ("torch", "s3prl", "numpy", "soundfile", "safetensors"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('broken')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "pruned_upstream.cli", "doctor", "--help"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and "how to mend" in " ".join(ended.stdout.split()).replace("Says ", "")
