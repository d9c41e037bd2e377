"""What the sizes of one run are worth, side by side: parameters, multiply-accumulates, time, and what they keep."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..description.latency import compare_with_dense
from ..description.macs import official_macs
from ..files import write_text
from ..model.checkpoint import load
from ..model.convert import load_teacher
from ..model.size import count_parameters
from ..pruning.repair import distance
from .corpus import HEADERS_FILE, find_corpus
from .data import Batches, window_of
from .prune import MODEL_FILE, PruneRecipe, sizes
from .repairing import calibration

TABLE_FILE = "sizes.json"
HEARD_SECONDS = 60.0  # of training speech, for the distance


@dataclass(frozen=True)
class SizeRow:
    """One model of a run.

    distance: from the teacher's layers, share of their variance, on a minute of training speech.
    seconds, dense_seconds: of an utterance of `latency.seconds` on `latency.device`, measured in turn.
    """

    target: float
    file: str
    parameters: int
    macs: int
    seconds: float
    dense_seconds: float
    distance: float


def table_of_sizes(recipe: PruneRecipe) -> list[SizeRow]:
    """The finished models of a run, the largest first; also written to the run's folder, as `sizes.json`."""
    folder, teacher = Path(recipe.run.folder), load_teacher(recipe.teacher)
    corpus = find_corpus(recipe.data.train, min_samples=teacher.config.receptive_field, cache=folder / HEADERS_FILE)
    batches = Batches(corpus, recipe.data, seed=recipe.run.seed, window=window_of(teacher.config))
    heard = list(calibration(teacher, batches, HEARD_SECONDS))
    rows = []
    for size in sizes(recipe):
        path = size.folder / MODEL_FILE
        if not path.is_file():
            continue
        student = load(path)
        (time,) = compare_with_dense(student, utterance_seconds=[recipe.latency.seconds], device=recipe.latency.device)
        with torch.no_grad():
            found = distance(teacher, student.cpu(), heard)
        rows.append(
            SizeRow(
                target=size.target,
                file=str(path.relative_to(folder)),
                parameters=count_parameters(student.config),
                macs=sum(bucket.total for bucket in official_macs(student.config)),
                seconds=time.compact,
                dense_seconds=time.dense,
                distance=found,
            )
        )
    write_text(folder / TABLE_FILE, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows
