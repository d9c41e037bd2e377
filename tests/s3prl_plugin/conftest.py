"""Files that s3prl's tasks read, in miniature, and fresh Python processes to import s3prl in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import random_encoder, tiny_config, wavlm_checkpoint

from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS
from pruned_upstream.model.encoder import Encoder

REPOSITORY = Path(__file__).parents[2]
# 320 samples per frame, as s3prl's featurizer wants it
NARROW_CONV = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)


@pytest.fixture(scope="session")
def narrow() -> Encoder:
    """A tiny WavLM with the frame rate of the published ones."""
    return random_encoder(tiny_config(conv_layers=NARROW_CONV))


@pytest.fixture(scope="session")
def model_file(narrow: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "compact.safetensors"
    save(path, narrow)
    return path


@pytest.fixture(scope="session")
def onnx_file(narrow: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as it is deployed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return export_onnx(narrow, tmp_path_factory.mktemp("onnx") / "compact.onnx").path


@pytest.fixture(scope="session")
def published_file(narrow: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the form in which Microsoft published WavLM and s3prl loads it."""
    path = tmp_path_factory.mktemp("published") / "WavLM-Narrow.pt"
    torch.save(wavlm_checkpoint(narrow), path)
    return path


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech Commands' layout with a tone for each word: `train` with eight speakers, `test` with 12 classes."""
    root = tmp_path_factory.mktemp("tones")
    random = np.random.RandomState(0)
    seconds = np.arange(16000) / 16000

    def write(path: Path, samples: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, 16000)

    words = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    for number, word in enumerate([*words, "bed"]):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * number) * seconds)
        for speaker in range(12):
            noise = 0.01 * random.uniform(-1, 1, 16000)
            write(root / "train" / word / f"{speaker:08x}_nohash_0.wav", tone + noise)
        write(root / "test" / {"bed": "_unknown_"}.get(word, word) / "0.wav", tone)
    write(root / "train" / "_background_noise_" / "hiss.wav", 0.01 * random.uniform(-1, 1, 32000))
    write(root / "test" / "_silence_" / "0.wav", np.zeros(16000))
    return root


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python afresh with these arguments; its output is kept."""

    def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | variables
        return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)

    return run
