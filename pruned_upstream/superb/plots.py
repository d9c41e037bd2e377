"""Plots of a comparison: superb_s against parameters, against multiply-accumulates, and the points of each task.

Filled marks were measured, open ones were published by others, and half-filled ones are measured but not official;
beside other models those have no points and are not drawn (see `report`). Models differ in their mark and its colour,
so that a grey print can be read. Axes hold every mark: none is cut off. Letters have nine points or more at the printed
width of seven inches. Figures are made without pyplot, so nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..description.figures import COLOURS, MARKERS
from .metrics import TASK_METRICS
from .report import Entry
from .scores import SUPERB_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#666666"
WIDTH, FONT = 7.0, 9  # inches, points
PUBLISHED, UNOFFICIAL, MEASURED = "published", "measured, not official", "measured"
KINDS = (MEASURED, UNOFFICIAL, PUBLISHED)


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
    figure = Figure(figsize=(WIDTH, max(4.5, 1.5 + 0.2 * len(drawn))), layout="constrained")
    axes = figure.add_subplot()
    for entry, (x, y) in zip(drawn, points, strict=True):
        _mark(axes, entry, x, y, 0 if entry.origin == MEASURED else 1)
    if not drawn:
        axes.text(0.5, 0.5, "no model has all ten tasks, official, and a size", ha="center", transform=axes.transAxes)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"\N{LEFTWARDS ARROW} {label}, fewer is better", fontsize=FONT)
    axes.set_ylabel("superb_s, higher is better \N{RIGHTWARDS ARROW}", fontsize=FONT)
    axes.tick_params(labelsize=FONT)
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


def task_profile(entries: Sequence[Entry], teacher: str | None = None) -> Figure:
    """Points of each task on superb_s's scale, one mark per model; missing tasks stay empty.

    FBANK and WavLM Large, between which points place a model, are lines. Beside other models, tasks that are not
    official stay empty, too, and are named below the axes.

    Args:
        teacher: the model of this name is drawn as a line in each task: what to come near to.
    """
    from matplotlib.figure import Figure

    alone = len(entries) == 1
    marked = [entry for entry in entries if entry.name != teacher or alone]
    figure = Figure(figsize=(WIDTH, 2.2 + 0.12 * len(TASK_METRICS) * max(3, len(marked))), layout="constrained")
    axes = figure.add_subplot()
    tasks = list(TASK_METRICS)
    for entry in entries:
        scores = SUPERB_S.task_scores(entry.comparable(alone=alone).metrics)
        if entry not in marked:
            rows = np.array([tasks.index(task) for task in scores])
            label = f"{entry.name}, {_kind(entry)}: the teacher"
            axes.vlines(list(scores.values()), rows - 0.4, rows + 0.4, colors="black", linewidth=2, label=label)
            continue
        number = marked.index(entry)
        offset = 0.8 * ((number + 0.5) / len(marked) - 0.5)
        for task, score in scores.items():
            _mark(axes, entry, score, tasks.index(task) + offset, number)
        if scores:
            label = f"{entry.name}, {_kind(entry)}"
            axes.plot([], [], **_style(entry, number), linestyle="none", label=label)
    for row in range(len(tasks) + 1):
        axes.axhline(row - 0.5, color=GREY, alpha=0.3, linewidth=0.8)
    for points, name, stroke, side in ((0, "FBANK", ":", "right"), (1000, "WavLM Large", "--", "left")):
        axes.axvline(points, color=GREY, linewidth=1.2, linestyle=stroke)
        above = axes.get_xaxis_transform()
        # away from each other: toy data have points by which the two lines nearly touch
        axes.text(points, 1.01, name, transform=above, ha=side, va="bottom", fontsize=FONT, color=GREY)
    axes.set_yticks(range(len(tasks)), [_task_label(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.margins(x=0.05)
    axes.tick_params(labelsize=FONT)
    axes.set_xlabel("points, further right is better \N{RIGHTWARDS ARROW}", fontsize=FONT)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=FONT, frameon=False)
    without = [f"{entry.name} ({', '.join(entry.unofficial)})" for entry in entries if entry.unofficial and not alone]
    _say_not_drawn(figure, {"not official": without})
    return figure


def _say_not_drawn(figure: Figure, names: Mapping[str, Sequence[str]]) -> None:
    """Whom the figure lacks, and why, below everything else."""
    said = [f"not drawn ({why}): {', '.join(of_why)}" for why, of_why in names.items() if of_why]
    if said:
        figure.supxlabel("\n".join(map(_wrap, said)), fontsize=FONT, color=GREY)


def _kind(entry: Entry) -> str:
    if entry.origin == PUBLISHED:
        return PUBLISHED
    return UNOFFICIAL if entry.unofficial else MEASURED


def _style(entry: Entry, number: int) -> dict[str, Any]:
    colour = COLOURS[number % len(COLOURS)]
    fill: dict[str, Any] = {"fillstyle": "left", "markerfacecoloralt": "white"} if _kind(entry) == UNOFFICIAL else {}
    return fill | {
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6 if entry.origin == PUBLISHED else 9,
        "markerfacecolor": "white" if entry.origin == PUBLISHED else colour,
        "markeredgecolor": colour,
    }


def _mark(axes: Axes, entry: Entry, x: float, y: float, number: int) -> None:
    axes.plot([x], [y], **_style(entry, number), linestyle="none", zorder=3 + (entry.origin == MEASURED))


def _legend(axes: Axes, entries: Sequence[Entry]) -> None:
    for kind in KINDS:
        of_kind = [entry for entry in entries if _kind(entry) == kind]
        if of_kind:
            style = _style(of_kind[0], 1 if kind == PUBLISHED else 0)
            axes.plot([], [], **style, linestyle="none", label=kind)
    if entries:
        axes.legend(loc="lower right", fontsize=FONT)


def _label_beside(axes: Axes, entries: Sequence[Entry], points: Sequence[tuple[float, float]]) -> None:
    """Names in a column right of the axes, each joined to its mark: many models share a size."""
    order = sorted(range(len(entries)), key=lambda i: points[i][1])
    lowest, highest = axes.get_ylim()
    wanted = [(points[i][1] - lowest) / (highest - lowest) for i in order]
    for height, i in zip(_spread(wanted, gap=min(0.05, 1 / max(1, len(order)))), order, strict=True):
        measured = entries[i].origin == MEASURED
        axes.annotate(
            entries[i].name,
            xy=points[i],
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT,
            fontweight="bold" if measured else "normal",
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

    return textwrap.fill(text, 95)
