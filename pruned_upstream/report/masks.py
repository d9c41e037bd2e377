"""How alike the masks of runs of PARP are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..model.checkpoint import read_masks
from ..parp.masks import Overlap, overlap
from ..training.parp import MODEL_FILE


def compare_masks(models: Sequence[Path]) -> dict[tuple[str, str], Overlap]:
    """The overlap of each pair of models, given as model files or run folders.

    Raises:
        ConfigError: fewer than two, one without masks, or two of different shape.
        CheckpointError: one cannot be read.
    """
    if len(models) < 2:
        raise ConfigError("one model has nothing to be compared with; name at least two")
    found = {}
    for model in models:
        found[str(model)] = read_masks(model / MODEL_FILE if model.is_dir() else model)
        if not found[str(model)]:
            raise ConfigError(f"{model} is stored dense and has no masks; models that PARP has pruned have some")
    return {(a, b): overlap(found[a], found[b]) for a, b in itertools.combinations(found, 2)}
