"""Figures of trainings: what was learned, how gates closed, which layers were paired; runs are overlaid.

`gates` begins with figure 3a of Wang et al. (Interspeech 2023), the means of z_FFN and z_MHA over training; 3b is
`description.anatomy.comparison`, 2 is `superb.plots.score_against_size`. A function returns None where no run has
anything to show. Figures are made without pyplot, so nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from ..description.figures import look
from ..superb.plots import GREY
from .runs import Curve, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

COLUMNS = 3
WIDTH, PANEL_HEIGHT, LEGEND_HEIGHT = 11.0, 2.5, 0.5  # inches
PRINTED = (7.0, 4.0)  # inches: a figure that goes into a paper or a talk as it is
MOST_POINTS = 400  # of a drawn curve: neighbours are averaged beyond

# the order in which kinds of gates are drawn, and what they are called
GATES = {
    "feed_forward": "$z_{FFN}$, feed-forward sublayers",
    "attention": "$z_{MHA}$, attention sublayers",
    "head": "heads",
    "ffn": "FFN dimensions",
    "qk": "q/k dimensions",
    "vo": "v/o dimensions",
}
GATE, LAYER_GATE, PAIR, RATE = "gate/", "layer_gate/", "pair/", "learning_rate/"
MULTIPLIERS = {"lambda1": "$\\lambda_1$", "lambda2": "$\\lambda_2$"}
DRAWN_ELSEWHERE = ("sparsity", "target", "frames", "seconds_per_step", *MULTIPLIERS)
FIRST = ("distillation", "loss")


def learning(runs: Sequence[Run]) -> Figure | None:
    """Losses, gradient norm and whatever else the runs report that has no figure of its own."""
    special = (GATE, LAYER_GATE, PAIR, RATE)
    names = {name for run in runs for name in run.curves if not name.startswith(special)} - {*DRAWN_ELSEWHERE}
    ordered = sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return _small_multiples(runs, {name: name.replace("_", " ") for name in ordered}, logarithmic=True)


def gates(runs: Sequence[Run]) -> Figure | None:
    """Means of the gates of each kind, those of the sublayers first."""
    found = {name.removeprefix(GATE) for run in runs for name in run.curves if name.startswith(GATE)}
    kinds = {kind: title for kind, title in GATES.items() if kind in found}
    kinds |= {kind: kind.replace("_", " ") for kind in sorted(found - kinds.keys())}
    figure = _small_multiples(runs, {GATE + kind: title for kind, title in kinds.items()})
    for axes in figure.axes if figure else ():
        axes.set_ylim(-0.03, 1.03)
    return figure


def multipliers(runs: Sequence[Run]) -> Figure | None:
    """lambda1 and lambda2, which rise for as long as the target is missed."""
    return _small_multiples(runs, {name: title for name, title in MULTIPLIERS.items() if _have(runs, name)})


def sparsity(runs: Sequence[Run]) -> Figure | None:
    """Expected sparsity (solid) against its target (dashed); a mark for what was counted in the file."""
    drawn = [run for run in runs if "sparsity" in run.curves]
    if not drawn:
        return None
    figure = _figure(1, 3.4)
    axes = figure.add_subplot()
    for number, run in enumerate(runs):
        if run not in drawn:
            continue
        colour = look(number)["color"]
        expected = run.curves["sparsity"]
        axes.plot(*_thinned(expected), color=colour, label=run.name)
        if "target" in run.curves:
            axes.plot(*_thinned(run.curves["target"]), color=colour, linestyle="--", linewidth=1)
        counted = run.outcome.get("counted_sparsity")
        if counted is not None:
            axes.plot([expected.steps[-1]], [counted], marker="*", markersize=13, color=colour, linestyle="none")
            axes.annotate(
                f"{counted:.1%}", (expected.steps[-1], counted), (0, 10), textcoords="offset points",
                ha="center", fontsize=8, color=colour,
            )  # fmt: skip
    axes.plot([], [], color=GREY, linestyle="--", linewidth=1, label="target")
    axes.plot([], [], color=GREY, marker="*", markersize=10, linestyle="none", label="counted in the file")
    axes.set_ylabel("sparsity")
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _finish(axes)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def pairing(runs: Sequence[Run]) -> Figure | None:
    """The student layer that each teacher layer was matched with; one panel per run, one curve per teacher layer."""
    drawn = [run for run in runs if any(name.startswith(PAIR) for name in run.curves)]
    if not drawn:
        return None
    rows, columns = _grid(len(drawn))
    figure = _figure(rows, 2.9)
    layers = sorted({int(name.removeprefix(PAIR)) for run in drawn for name in run.curves if name.startswith(PAIR)})
    for place, run in enumerate(drawn, 1):
        axes = figure.add_subplot(rows, columns, place)
        for number, layer in enumerate(layers):
            curve = run.curves.get(f"{PAIR}{layer}")
            if curve is not None:
                axes.plot(*_thinned(curve), **look(number, marker=False), label=f"teacher layer {layer}")
        axes.set_title(run.name, fontsize=10)
        axes.set_ylabel("student layer")
        _whole_numbers(axes.yaxis)
        _finish(axes)
    _shared_legend(figure, columns=6)
    return figure


def gates_by_layer(run: Run) -> Figure | None:
    """How the gates of each layer closed: one picture per kind, layers upwards, training to the right."""
    tables = _layer_tables(run)
    if not tables:
        return None
    rows, columns = _grid(len(tables))
    figure = _figure(rows, 2.7)
    for place, (kind, (steps, table)) in enumerate(tables.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        edges = np.concatenate([[0], steps])
        layers = np.arange(len(table) + 1) + 0.5  # layer 1 is the lowest
        mesh = axes.pcolormesh(edges, layers, table, vmin=0, vmax=1, cmap="viridis", rasterized=True)
        axes.set_title(GATES.get(kind, kind), fontsize=10)
        axes.set_ylabel("layer")
        _whole_numbers(axes.yaxis)
        _finish(axes, grid=False)
    figure.colorbar(mesh, ax=figure.axes, label="mean of the gates", aspect=40, pad=0.01)
    return figure


class Compared(NamedTuple):
    """A point of `trade_off`; each measure is a mean and its spread over seeds."""

    costs: tuple[tuple[float, float], ...]
    quality: tuple[float, float]


def trade_off(
    groups: Mapping[str, Sequence[Compared]], *, costs: Sequence[str], quality: str, missed: Sequence[Compared] = ()
) -> Figure:
    """Quality against each cost, a panel each; one curve per group of points, error bars over seeds.

    Args:
        groups: name of the curve -> its points.
        costs, quality: what the axes say.
        missed: points whose target was missed; they stand where they ended, and are marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=PRINTED, layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for panel, (axes, label) in enumerate(zip(panels, costs, strict=True)):
        for number, (name, points) in enumerate(groups.items()):
            x, x_spread, y, y_spread = np.array(sorted((*point.costs[panel], *point.quality) for point in points)).T
            axes.errorbar(x, y, yerr=y_spread, xerr=x_spread, capsize=3, label=name, **look(number))
        if missed:
            x, y = [point.costs[panel][0] for point in missed], [point.quality[0] for point in missed]
            axes.plot(x, y, "x", color="black", markersize=13, markeredgewidth=1.5, label="target missed", zorder=5)
        axes.set_xlabel(label, fontsize=10)
        axes.tick_params(labelsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(quality, fontsize=10)
    if len(groups) > 1 or missed:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _small_multiples(runs: Sequence[Run], metrics: Mapping[str, str], *, logarithmic: bool = False) -> Figure | None:
    """One panel per metric (name -> title), one curve per run."""
    if not metrics:
        return None
    rows, columns = _grid(len(metrics))
    figure = _figure(rows, PANEL_HEIGHT)
    for place, (name, title) in enumerate(metrics.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for number, run in enumerate(runs):
            if name in run.curves:
                axes.plot(*_thinned(run.curves[name]), **look(number, marker=False), label=run.name)
        if logarithmic and all(np.all(run.curves[name].values > 0) for run in runs if name in run.curves):
            axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        _finish(axes)
    if len(runs) > 1:
        _shared_legend(figure, columns=3)
    return figure


def _grid(panels: int) -> tuple[int, int]:
    """Rows and columns for so many axes."""
    columns = 2 if panels == 4 else min(panels, COLUMNS)
    return -(-panels // columns), columns


def _figure(rows: int, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, rows * height + LEGEND_HEIGHT), layout="constrained")


def _shared_legend(figure: Figure, columns: int) -> None:
    """One entry for each name, whichever of the panels have it."""
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _whole_numbers(axis: Axis) -> None:
    cast("MaxNLocator", axis.get_major_locator()).set_params(integer=True)


def _finish(axes: Axes, *, grid: bool = True) -> None:
    axes.set_xlabel("step", fontsize=8)
    _whole_numbers(axes.xaxis)
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.25)


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most `MOST_POINTS` points: means of neighbours, where there are more, at the last step of each."""
    if len(curve.steps) <= MOST_POINTS:
        return curve.steps, curve.values
    parts = np.array_split(np.arange(len(curve.steps)), MOST_POINTS)
    return curve.steps[[part[-1] for part in parts]], np.array([curve.values[part].mean() for part in parts])


def _layer_tables(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each kind of gate its steps (n,) and its means (layers, n)."""
    found: dict[str, dict[int, Curve]] = {}
    for name, curve in run.curves.items():
        if name.startswith(LAYER_GATE):
            kind, _, layer = name.removeprefix(LAYER_GATE).partition("/")
            found.setdefault(kind, {})[int(layer)] = curve
    ordered = [kind for kind in GATES if kind in found]
    tables = {}
    for kind in ordered + sorted(found.keys() - set(ordered)):
        thinned = [_thinned(found[kind][layer]) for layer in sorted(found[kind])]
        tables[kind] = (thinned[0][0], np.stack([values for _, values in thinned]))
    return tables


def _have(runs: Sequence[Run], name: str) -> bool:
    return any(name in run.curves for run in runs)
