"""What a sweep leaves for whoever opens its folder: a page with tables, plots and the way to each run, and a README."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..jobs import Failure
from ..readme import PAGE, write_readme
from ..report.html import Grid, pictures, write_html
from ..superb.metrics import METRICS
from .grid import Sweep
from .results import CSV_FILE, MISSED, TIMES_FILE, YAML_FILE, means_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOBS_FOLDER = "jobs"

CONTENTS = {
    PAGE: "tables, plots, links to the page of each run; it needs no other file and no network",
    CSV_FILE: "one line per run: what was varied, size, distance from the teacher, scores",
    YAML_FILE: "the same, and means over seeds",
    TIMES_FILE: "milliseconds of each shape, all measured in turn on the machine that collects",
    "trade_off*.png": "quality against size and time, error bars over seeds; a cross missed its target",
    JOBS_FOLDER: "logs of the jobs",
}


def write_guide(folder: Path, sweep: Sweep, finished: Collection[str]) -> None:
    """Write the README: what each file is, and how the sweep goes on. It is there from the start.

    Args:
        folder: where to write; the sweep's own, or one whose files go there.
        finished: names of points.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    varied = "; ".join(f"`{axis.key}` {', '.join(map(str, axis.values))}" for axis in sweep.axes)
    contents = [(f"`{name}`", meaning) for name, meaning in CONTENTS.items()]
    for point in sweep.points:
        values = ", ".join(f"{key} {value}" for key, value in point.values.items())
        state = "finished" if point.name in finished else "not finished"
        contents.append((f"`{point.name}`", f"the run with {values}: {state}"))
    scored = f", in its `superb` a {PAGE} about its scores" if sweep.scoring is not None else ""
    write_readme(
        folder,
        sweep.folder.resolve().name,
        f"A sweep of `pruned-upstream {sweep.method.name}` over {varied}:\n"
        f"{len(finished)} of {len(sweep.points)} runs finished.",
        contents,
        f"Each run has a README and a {PAGE} of its own{scored}.",
        "## How it goes on",
        "The same command trains what is not finished: a finished run is never trained again, one that was interrupted "
        "goes on from its last state, and one that failed is tried again. More values behind `--sparsity`, `--seeds` "
        "or `--vary` add runs. A single run goes on by itself, too:",
        f"    pruned-upstream {sweep.method.name} {sweep.points[0].folder}/recipe.yaml",
        "To begin a run anew, delete its folder.",
    )


def write_sweep_page(
    folder: Path,
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    means: Sequence[Mapping[str, Any]],
    drawn: Iterable[tuple[str, Figure]],
    failures: Mapping[str, Failure],
) -> None:
    """Write the page.

    Args:
        folder: as `write_guide`.
        rows: of the finished points.
        means: the same over seeds.
        drawn: what each quality is called, and its figure, which takes on the colours of the page.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    done = {row["point"] for row in rows}
    write_html(
        folder / PAGE,
        "sweep.html",
        f"Sweep {sweep.folder.resolve().name}",
        pictures((label, "Error bars over seeds; a cross missed its target.", figure) for label, figure in drawn),
        failures=failures,
        open=[point.name for point in sweep.points if point.name not in done and point.name not in failures],
        means=_means(sweep, means),
        points=_points(rows),
    )


def _means(sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> Grid:
    heading, rows = means_table(sweep, means)
    keys = heading.index("runs")  # what was varied beside the seed stands ahead of it
    named = [(", ".join(f"{key} {cell}" for key, cell in zip(heading, row[:keys], strict=False)), row) for row in rows]
    return Grid(heading[keys:], [(name or "all seeds", row[keys:]) for name, row in named])


def _points(rows: Sequence[Mapping[str, Any]]) -> Grid:
    columns = list(dict.fromkeys(column for row in rows for column in row if column not in ("point", MISSED)))
    labels = [METRICS[column].label if column in METRICS else column.replace("_", " ") for column in columns]
    cells = [(row["point"], [_cell(row.get(column, "")) for column in columns]) for row in rows]
    links = {row["point"]: f"{row['point']}/{PAGE}" for row in rows}
    return Grid(labels, cells, links=links)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
