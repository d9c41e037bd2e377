"""One HTML page about a run of SUPERB's tasks: results, why one is not official, the plot, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..description.macs import BUCKETS
from ..readme import PAGE
from ..superb.early import early_estimates
from ..superb.metrics import TASK_METRICS
from ..superb.plots import score_against_size, task_profile
from ..superb.published import TEACHER, published_rows
from ..superb.report import ABSENT, STAR, Entry, overview, references
from ..superb.results import RunResults
from ..superb.scores import SUPERB_S, truncate
from .html import Grid, duration, pictures, write_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..jobs import Failure


def write_scores_page(folder: str | Path, results: RunResults, failures: Mapping[str, Failure] | None = None) -> None:
    """Write the page of a run of the tasks into its folder.

    Args:
        failures: task -> why it is not among the results.

    Raises:
        PrunedUpstreamError: the file cannot be written.
    """
    entry = Entry.measured(results)
    write_html(
        Path(folder) / PAGE,
        "scores.html",
        f"{results.model} on SUPERB",
        pictures(score_figures([results])),
        folder=str(folder),
        failures=failures or {},
        missing=entry.missing,
        numbers=_numbers(results, entry),
        tasks=_tasks(results, entry),
        published=_beside_published(entry),
        estimates=early_estimates([entry]),
        provenance=results.provenance,
    )


def score_figures(superb: Sequence[RunResults]) -> Iterable[tuple[str, str, Figure | None]]:
    """Titles, captions and figures of one or several runs of the tasks; none without any."""
    if not superb:
        return
    entries = [Entry.measured(results) for results in superb]
    yield "Tasks", "On the scale of superb_s, so that all tasks share an axis.", task_profile(entries)
    if any(entry.superb_s is not None for entry in entries):
        caption = "Figure 2 of Wang et al. (2023)."
        context = [*entries, *map(Entry.published, published_rows())]
        yield "superb_s against parameters", caption, score_against_size(context)
        yield "superb_s against MACs", caption, score_against_size(context, macs=True)


def _numbers(results: RunResults, entry: Entry) -> Grid:
    rows = {"upstream": results.upstream, "checkpoint": results.checkpoint or ABSENT}
    if results.parameters is not None:
        rows["parameters"] = f"{results.parameters:,}"
    if results.nonzero_parameters is not None:
        rows["parameters that are not zero"] = f"{results.nonzero_parameters:,}"
    if results.macs is not None:
        rows |= {
            f"MACs (G), {name} utterances": f"{macs / 1e9:.2f}"
            for name, macs in zip(BUCKETS, results.macs, strict=True)
        }
        rows["MACs (G), all 32"] = f"{sum(results.macs) / 1e9:.2f}"
    star = ", not official" if entry.unofficial else ""
    rows["superb_s"] = ABSENT if entry.superb_s is None else truncate(entry.superb_s) + star
    return Grid([results.model], [(name, [value]) for name, value in rows.items()])


def _tasks(results: RunResults, entry: Entry) -> Grid:
    """One row per metric; a task's points and time stand at its first, and why it is not official below the table."""
    points = SUPERB_S.task_scores(entry.metrics)
    rows = []
    for name, task in results.tasks.items():
        steps = ABSENT if task.steps is None else f"{task.steps:,}"
        time = ABSENT if task.seconds is None else duration(task.seconds)
        chosen = ", ".join(f"{key} {value}" for key, value in task.details.items())
        star = "" if task.official else STAR
        of_task = [
            f"{points[name]:.0f}{star}" if name in points else ABSENT,
            steps,
            time,
            chosen or ABSENT,
            "yes" if task.official else "no",
        ]
        for number, metric in enumerate(TASK_METRICS[name]):
            rest = [""] * len(of_task) if number else of_task
            rows.append((metric.label, [f"{task.metrics[metric.name]:.2f}", *rest]))
    notes = [f"{STAR} {name} is not official: {why}" for name, why in entry.unofficial.items()]
    return Grid(["value", "points", "steps", "time", "chosen on the way", "official"], rows, notes=notes)


def _beside_published(entry: Entry) -> Grid:
    """The usual rows of others, one column per model."""
    table = overview([entry, *references(TEACHER)])
    rows = [(name, [row[i] for row in table.rows]) for i, name in enumerate(table.header)]
    return Grid([row[0] for row in table.rows], rows[1:], notes=table.notes)
