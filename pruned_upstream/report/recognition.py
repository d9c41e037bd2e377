"""What recognisers get wrong: a table and a plot over the points of a sweep of PARP, and how alike their masks are."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import atomic_write, write_text
from ..model.checkpoint import read_masks
from ..parp.masks import Overlap, overlap
from ..training.finetune import MODEL_FILE, REPORT_FILE, run_parp

if TYPE_CHECKING:
    from rich.table import Table

    from ..sweep import Sweep

RATES = ("wer", "cer", "per")
SEED = "run.seed"
SPARSITY = "parp.sparsity"


def run_all(sweep: Sweep) -> list[dict[str, Any]]:
    """Run what is not finished of a sweep of the method parp, one point after another.

    Returns:
        A row for each point and test source: varied keys, `test`, sparsity, size of the file, error rates as shares.

    Raises:
        PrunedUpstreamError: as `run_parp`; or a point's folder holds a run of another recipe.
    """
    rows = []
    for point in sweep.points:
        report = point.folder / REPORT_FILE
        if not (sweep.is_trained(point) and report.is_file()):
            run_parp(point.recipe)
        outcome = json.loads(report.read_text(encoding="utf-8"))
        found = {"sparsity": outcome["sparsity"], "file_bytes": outcome["file_bytes"]}
        for source, rates in (outcome["tests"] or {"": {}}).items():
            rows.append({**point.values, "test": source, **found, **rates})
    return rows


def table(rows: Sequence[Mapping[str, Any]], folder: Path) -> Table:
    """Means over seeds with their standard deviation, for the terminal; all rows go to study.json."""
    from rich.table import Table

    write_text(folder / "study.json", json.dumps([dict(row) for row in rows], indent=1))
    groups = group_by_seed(rows)
    shown = Table(title=str(folder), title_justify="left")
    keys = [key for key in rows[0] if "." in key and key != SEED] + ["test"]
    rates = [rate for rate in RATES if rate in rows[0]]
    for name in (*keys, "runs", *rates):
        shown.add_column(name.rpartition(".")[2], justify="right")
    for members in groups:
        cells = [_spread([100 * row[rate] for row in members]) for rate in rates]
        shown.add_row(*(str(members[0][key]) for key in keys), str(len(members)), *cells)
    return shown


def group_by_seed(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows that differ in their seed alone stand together."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(str(row[key]) for key in row if ("." in key and key != SEED) or key == "test")].append(row)
    return list(groups.values())


def draw(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """An error rate over sparsity, a line for each combination of the other keys and a picture for each test source.

    Returns:
        The pictures; none where sparsity was not varied or nothing was decoded.
    """
    rate = next((rate for rate in RATES if rate in rows[0]), None)
    if rate is None or len({row.get(SPARSITY) for row in rows}) < 2:
        return []
    from matplotlib.figure import Figure

    pictures = []
    for number, source in enumerate(dict.fromkeys(row["test"] for row in rows)):
        lines: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
        for members in group_by_seed([row for row in rows if row["test"] == source]):
            label = ", ".join(str(members[0][key]) for key in members[0] if "." in key and key not in (SEED, SPARSITY))
            lines[label].append((members[0][SPARSITY], [100 * row[rate] for row in members]))
        figure = Figure(figsize=(6.5, 4), layout="constrained")
        axes = figure.subplots()
        for label, points in lines.items():
            points.sort()
            means = [statistics.mean(values) for _, values in points]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            axes.errorbar([100 * x for x, _ in points], means, spreads, marker="o", capsize=3, label=label)
        axes.set(xlabel="sparsity (%)", ylabel=f"{rate.upper()} (%)", title=source)
        axes.grid(alpha=0.25)
        if any(lines):
            axes.legend()
        picture = folder / f"study_{number}.png"
        with atomic_write(picture) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        pictures.append(picture)
    return pictures


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


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
