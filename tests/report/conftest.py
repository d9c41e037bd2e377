"""Run folders: one that was really trained, and any that is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from superb.conftest import make_results  # noqa: F401 (a fixture)
from training.conftest import recipe, recordings, teacher_file  # noqa: F401 (fixtures)

from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import PruneRecipe

RECIPE = """
teacher: teacher.pt
sparsity: {target: 0.5, warmup: 0.07}
gates: {straight_through: true}
optimisation: {steps: 40, learning_rate: 0.0002}
run: {folder: somewhere, seed: 0}
"""


@pytest.fixture
def pruned(recipe: Callable[..., PruneRecipe]) -> Path:  # noqa: F811
    """The folder of a pruning of six steps."""
    return run_prune(recipe()).parent


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """write_run(rows, name=, recipe=, end=) -> a folder that a training might have left behind."""

    def write(
        rows: Sequence[Mapping[str, float]],
        *,
        name: str = "by_hand",
        recipe: str = RECIPE,  # noqa: F811
        end: str = "",
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(recipe)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
        return folder

    return write
