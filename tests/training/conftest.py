"""A tiny teacher, a folder of generated recordings and a recipe over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import random_encoder, tiny_config

from pruned_upstream.model.checkpoint import save
from pruned_upstream.training.prune import PruneRecipe
from pruned_upstream.training.recipe import resolve_recipe

LENGTHS = (2400, 1711, 900, 2000, 1333, 3100, 640)  # samples at 16 kHz


def write_noise(
    path: Path, samples: int, *, rate: int = 16000, channels: int = 1, seed: int = 0, **options: Any
) -> Path:
    soundfile = pytest.importorskip("soundfile")
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng(seed).normal(scale=0.1, size=(samples, channels))
    soundfile.write(path, wav, rate, **options)
    return path


def in_sections(values: dict[str, Any]) -> dict[str, Any]:
    """{"section.key": value} as a recipe's tree."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    for number, samples in enumerate(LENGTHS):
        write_noise(folder / f"speaker{number % 2}" / f"{number}.wav", samples, seed=number)
    return folder


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save(path, random_encoder(tiny_config()))
    return path


@pytest.fixture
def recipe(tmp_path: Path, recordings: Path, teacher_file: Path) -> Callable[..., PruneRecipe]:
    """recipe(**{"optimisation.steps": 3}) -> a recipe over the tiny teacher and the recordings."""
    pytest.importorskip("omegaconf")

    def make(**changes: Any) -> PruneRecipe:
        values = {
            "teacher": str(teacher_file),
            "data.train": [str(recordings)],
            "data.batch_utterances": 4,
            "data.max_seconds": 0.15,
            "data.workers": 0,
            "sparsity.target": 0.5,
            "optimisation.steps": 6,
            "optimisation.learning_rate": 1e-3,
            "optimisation.gate_learning_rate": 0.2,
            "optimisation.multiplier_learning_rate": 0.1,
            "run.folder": str(tmp_path / "run"),
            "run.device": "cpu",
            "run.log_every": 1,
            "run.checkpoint_every": 2,
        } | changes
        return resolve_recipe(in_sections(values), PruneRecipe)

    return make
