"""Run folders: one that was really trained, and any that is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from superb.conftest import make_results  # noqa: F401 (a fixture)
from tiny import random_encoder, tiny_config
from training.conftest import LENGTHS, write_noise

from pruned_upstream.model.checkpoint import save
from pruned_upstream.training.prune import PruneRecipe, run_prune
from pruned_upstream.training.recipe import resolve_recipe

RECIPE = """
teacher: teacher.pt
sparsity: {target: 0.5, warmup: 0.07}
gates: {straight_through: true}
optimisation: {steps: 40, learning_rate: 0.0002}
run: {folder: somewhere, seed: 0}
"""


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pruning of six steps, to be read alone."""
    root = tmp_path_factory.mktemp("pruned")
    for number, samples in enumerate(LENGTHS):
        write_noise(root / "speech" / f"{number}.wav", samples, seed=number)
    save(root / "teacher.safetensors", random_encoder(tiny_config()))
    tree = {
        "teacher": str(root / "teacher.safetensors"),
        "data": {"train": [str(root / "speech")], "batch_utterances": 4, "max_seconds": 0.15, "workers": 0},
        "sparsity": {"target": 0.5},
        "optimisation": {"steps": 6, "gate_learning_rate": 0.2, "multiplier_learning_rate": 0.1},
        "run": {"folder": str(root / "run"), "device": "cpu", "log_every": 1, "checkpoint_every": 2},
    }
    return run_prune(resolve_recipe(tree, PruneRecipe)).parent


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """write_run(rows, name=, recipe=, end=) -> a folder that a training might have left behind."""

    def write(
        rows: Sequence[Mapping[str, float]],
        *,
        name: str = "by_hand",
        recipe: str = RECIPE,
        end: str = "",
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(recipe)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
        return folder

    return write
