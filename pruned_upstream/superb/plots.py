"""Plots of a comparison: superb_s against parameters, against multiply-accumulates, and the points of each task.

Filled marks were measured, open ones were published by others, and a measured result that is not official is
crossed; beside other models it has no points and is not drawn (see `report`). Axes hold every mark: none is cut off.
Figures are made without pyplot, so nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..description.figures import COLOURS
from .metrics import TASK_METRICS
from .report import Entry
from .scores import SUPERB_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#666666"
KINDS = {"measured": "o", "measured, not official": "X", "published": "o"}


def score_against_size(entries: Sequence[Entry], *, macs: bool = False) -> Figure:
    """superb_s against parameters, or against the MACs of the official utterances.

    A model without a superb_s or without the size is not drawn but named below the axes, and so is one that is not
    official beside others.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    unit, label = (1e9, "MACs of the official 32 utterances (G)") if macs else (1e6, "parameters (M)")
    sizes = {id(entry): entry.macs if macs else entry.parameters for entry in entries}
    alone = len(entries) == 1
    scores = {id(entry): entry.comparable(alone=alone).superb_s for entry in entries}
    drawn, points = [], []
    for entry in entries:
        size, score = sizes[id(entry)], scores[id(entry)]
        if size and score is not None:
            drawn.append(entry)
            points.append((size / unit, score))
    figure = Figure(figsize=(9.5, max(4.5, 1.5 + 0.27 * len(drawn))), layout="constrained")
    axes = figure.add_subplot()
    for entry, (x, y) in zip(drawn, points, strict=True):
        _mark(axes, entry, x, y, COLOURS[0] if entry.origin == "measured" else COLOURS[1])
    if not drawn:
        axes.text(0.5, 0.5, "no model has all ten tasks, official, and a size", ha="center", transform=axes.transAxes)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.set_ylabel("superb_s")
    axes.grid(alpha=0.25)
    _label_beside(axes, drawn, points)
    _legend(axes, drawn)
    _say_not_drawn(
        figure,
        {
            "not official": [entry.name for entry in entries if entry.unofficial and entry not in drawn],
            "tasks or size missing": [e.name for e in entries if not e.unofficial and e not in drawn],
        },
    )
    return figure


def task_profile(entries: Sequence[Entry]) -> Figure:
    """Points of each task on superb_s's scale, one mark per model; missing tasks stay empty.

    Beside other models, tasks that are not official stay empty, too, and are named below the axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    tasks = list(TASK_METRICS)
    alone = len(entries) == 1
    for number, entry in enumerate(entries):
        scores = SUPERB_S.task_scores(entry.comparable(alone=alone).metrics)
        offset = 0.8 * ((number + 0.5) / len(entries) - 0.5)
        colour = COLOURS[number % len(COLOURS)]
        for task, score in scores.items():
            _mark(axes, entry, score, tasks.index(task) + offset, colour)
        if scores:
            axes.plot([], [], **_style(entry, colour), linestyle="none", label=f"{entry.name}, {_kind(entry)}")
    for row in range(len(tasks) + 1):
        axes.axhline(row - 0.5, color=GREY, alpha=0.2, linewidth=0.8)
    for points in (0, 1000):
        axes.axvline(points, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(tasks)), [_task_label(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.margins(x=0.05)
    axes.set_xlabel("points: 0 is FBANK, 1000 is WavLM Large")
    axes.grid(axis="x", alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    without = [f"{entry.name} ({', '.join(entry.unofficial)})" for entry in entries if entry.unofficial and not alone]
    _say_not_drawn(figure, {"not official": without})
    return figure


def _say_not_drawn(figure: Figure, names: Mapping[str, Sequence[str]]) -> None:
    """Whom the figure lacks, and why, below everything else."""
    said = [f"not drawn ({why}): {', '.join(of_why)}" for why, of_why in names.items() if of_why]
    if said:
        figure.supxlabel("\n".join(map(_wrap, said)), fontsize=7, color=GREY)


def _kind(entry: Entry) -> str:
    if entry.origin == "published":
        return "published"
    return "measured, not official" if entry.unofficial else "measured"


def _style(entry: Entry, colour: str) -> dict:
    face = "white" if entry.origin == "published" else colour
    size = 6 if entry.origin == "published" else 9
    return dict(marker=KINDS[_kind(entry)], markersize=size, markerfacecolor=face, markeredgecolor=colour)


def _mark(axes: Axes, entry: Entry, x: float, y: float, colour: str) -> None:
    axes.plot([x], [y], **_style(entry, colour), linestyle="none", zorder=3 + (entry.origin == "measured"))


def _legend(axes: Axes, entries: Sequence[Entry]) -> None:
    for kind in KINDS:
        of_kind = [entry for entry in entries if _kind(entry) == kind]
        if of_kind:
            colour = COLOURS[1] if kind == "published" else COLOURS[0]
            axes.plot([], [], **_style(of_kind[0], colour), linestyle="none", label=kind)
    if entries:
        axes.legend(loc="lower right", fontsize=8)


def _label_beside(axes: Axes, entries: Sequence[Entry], points: Sequence[tuple[float, float]]) -> None:
    """Names in a column right of the axes, each joined to its mark: many models share a size."""
    order = sorted(range(len(entries)), key=lambda i: points[i][1])
    lowest, highest = axes.get_ylim()
    wanted = [(points[i][1] - lowest) / (highest - lowest) for i in order]
    for height, i in zip(_spread(wanted, gap=min(0.05, 1 / max(1, len(order)))), order, strict=True):
        measured = entries[i].origin == "measured"
        axes.annotate(
            entries[i].name,
            xy=points[i],
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if measured else "normal",
            color=COLOURS[0] if measured else "black",
            arrowprops=dict(
                arrowstyle="-", color=GREY, alpha=0.4, linewidth=0.7, relpos=(0, 0.5), shrinkA=1, shrinkB=3
            ),
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The nearest heights (least squares) at least `gap` apart, within 0 to 1; `heights` rise.

    Subtracting k * gap from the k-th turns it into isotonic regression: neighbours that fall are pooled to their mean.
    """
    pools: list[tuple[float, int]] = []
    for number, height in enumerate(heights):
        mean, size = height - number * gap, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    levels = [mean for mean, size in pools for _ in range(size)]
    top = 1 - (len(levels) - 1) * gap
    return [min(max(level, 0.0), top) + number * gap for number, level in enumerate(levels)]


def _task_label(task: str) -> str:
    counted = SUPERB_S.counted(task)
    (metric,) = [metric for metric in TASK_METRICS[task] if metric.key in counted]
    return metric.label


def _wrap(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 130)
