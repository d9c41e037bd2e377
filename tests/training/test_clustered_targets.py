"""Learning from clusters of teacher layers, from speech to file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruned_upstream.errors import ConfigError
from pruned_upstream.training.prune import run_prune


def test_a_run_finds_its_clusters_once(recipe, tmp_path: Path) -> None:
    changes = {"distillation.clusters": 2, "distillation.gram": 1.0, "optimisation.steps": 3}
    run_prune(recipe(**changes))
    found = json.loads((tmp_path / "run" / "clusters.json").read_text())
    assert sorted(layer for cluster in found for layer in cluster) == [1, 2, 3]
    assert len(found) == 2
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {name for name in row if name.startswith("pair/")} == {f"pair/{cluster[-1]}" for cluster in found}
    with pytest.raises(ConfigError, match="distillation.teacher_layers is .*; it must be null"):
        recipe(**changes | {"distillation.teacher_layers": [1, 2]})
