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


def test_what_the_package_itself_needs(shadow):
    """Neither is an extra that some other check would miss."""
    shadow("safetensors", "raise ImportError('safetensors_rust.so: undefined symbol')")
    shadow("omegaconf", "raise AttributeError('antlr4 is of another version')")
    files, recipes = doctor.examine(["model files", "recipes"])
    assert files.state == recipes.state == doctor.BROKEN
    assert "undefined symbol" in files.words and "--no-deps safetensors numpy" in files.remedy
    assert "antlr4" in recipes.words and "omegaconf" in recipes.remedy


def test_a_program_that_is_called_sox(tmp_path, monkeypatch):
    """The package sox asks it for its help as it is imported, and s3prl imports that for speaker verification."""
    for package in ("sox", "soxr", "torchaudio"):
        pytest.importorskip(package)
    program = tmp_path / "sox"
    program.write_text("#!/bin/sh\necho 'SoX of long ago'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (sox,) = doctor.examine(["sox"])
    assert sox.state == doctor.BROKEN and f"{program} does not answer as SoX does" in sox.words
    assert "PATH" in sox.remedy


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HOME": None}, "there is no place for home"),
        ({"TMPDIR": "/nowhere"}, "there is no place for temporary files"),
        ({"HOME": b"/caf\xe9"}, r"/caf\udce9 (home) cannot be written: No such file or directory"),
    ],
)
def test_places_that_are_not_there(environment, said, tmp_path):
    """A user without a name in the system (a container's), or nowhere to write to: told, with what to set."""
    code = (
        "import os, tempfile; from pruned_upstream import doctor\n"
        "import pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n"
        "if os.environ.get('TMPDIR') == '/nowhere': tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
        "import sys; sys.exit(doctor.main(['--check', 'disk']))"
    )
    variables = {os.fsencode(key): os.fsencode(value) for key, value in os.environ.items()}
    for key, value in environment.items():
        variables.pop(key.encode(), None)
        if value is not None:
            variables[key.encode()] = os.fsencode(value)
    ended = subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True)
    state, words, remedy = ended.stdout.strip().split(doctor.SEPARATOR)
    assert state == doctor.WARNING and said in words and "set" in remedy


def test_a_place_for_temporary_files_that_is_not_taken(tmp_path, monkeypatch):
    """Python passes over it without a word."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    (disk,) = doctor.examine(["disk"])
    assert disk.state == doctor.WARNING and f"TMPDIR is {tmp_path / 'nowhere'}, where no file" in disk.words


def test_a_folder_that_is_gone(tmp_path):
    code = f"import os; os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r})\n"
    code += "from pruned_upstream import doctor; print(doctor._check('disk'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "there is no place for here" in ended.stdout and "start from a folder" in ended.stdout


def test_the_command_starts_without_torch(tmp_path):
    for package in ("torch", "s3prl", "numpy", "soundfile", "safetensors"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('broken')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "pruned_upstream.cli", "doctor", "--help"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and "how to mend" in " ".join(ended.stdout.split()).replace("Says ", "")
