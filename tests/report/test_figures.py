"""Figures of trainings, by what their axes hold."""

from __future__ import annotations

import numpy as np
import pytest

from pruned_upstream.report import figures
from pruned_upstream.report.runs import Curve, Run, read_run, read_runs

pytest.importorskip("matplotlib")


def curves_of(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_") and len(line.get_xdata())
    }


@pytest.fixture
def two(write_run) -> list[Run]:
    """Two prunings with and without STE, the second at half its steps."""

    def rows(steps: int, factor: float):
        for step in range(10, steps + 1, 10):
            share = step / 40
            yield {
                "step": step,
                "distillation": factor / step,
                "sparsity": 0.5 * share,
                "target": 0.5,
                "lambda1": -share,
                "lambda2": share,
                "gate/ffn": 1 - 0.7 * share,
                "gate/feed_forward": 1 - 0.1 * factor * share,
                "gate/attention": 1 - 0.2 * factor * share,
                "pair/3": 3.0,
                "pair/6": 5.5,
                **{f"layer_gate/ffn/{layer}": 0.1 * layer * share for layer in range(1, 12)},
            }

    return read_runs([write_run(list(rows(40, 1)), name="ste"), write_run(list(rows(20, 2)), name="without")])


def test_gates_begin_with_the_sublayers_runs_overlaid(two):
    feed_forward, attention, ffn = figures.gates(two).axes
    assert "z_{FFN}" in feed_forward.get_title() and "z_{MHA}" in attention.get_title()
    assert curves_of(feed_forward) == {
        "ste": ([10, 20, 30, 40], pytest.approx([0.975, 0.95, 0.925, 0.9])),
        "without": ([10, 20], pytest.approx([0.95, 0.9])),
    }
    assert curves_of(attention)["without"][1] == pytest.approx([0.9, 0.8])
    assert curves_of(ffn)["ste"][1][-1] == pytest.approx(0.3)


def test_sparsity_against_its_target_with_what_was_counted(pruned):
    run = read_run(pruned)
    axes = figures.sparsity([run]).axes[0]
    expected, target, counted = axes.lines[:3]
    assert list(expected.get_ydata()) == run.curves["sparsity"].values.tolist()
    assert list(target.get_ydata()) == run.curves["target"].values.tolist()
    assert (counted.get_xdata()[0], counted.get_ydata()[0]) == (6, run.outcome["counted_sparsity"])


def test_an_unfinished_run_has_no_counted_mark(two):
    axes = figures.sparsity(two).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines] == [4, 4, 2, 2, 0, 0]


def test_learning_shows_what_has_no_figure_of_its_own(two):
    (axes,) = figures.learning(two).axes
    assert axes.get_title() == "distillation" and axes.get_yscale() == "log"
    assert curves_of(axes)["without"] == ([10, 20], [0.2, 0.1])


def test_multipliers(two):
    first, second = figures.multipliers(two).axes
    assert curves_of(first)["ste"][1] == [-0.25, -0.5, -0.75, -1.0]
    assert curves_of(second)["ste"][1] == [0.25, 0.5, 0.75, 1.0]


def test_pairing_has_axes_for_each_run(two):
    left, right = figures.pairing(two).axes
    assert (left.get_title(), right.get_title()) == ("ste", "without")
    assert curves_of(left) == {
        "teacher layer 3": ([10, 20, 30, 40], [3] * 4),
        "teacher layer 6": ([10, 20, 30, 40], [5.5] * 4),
    }


def test_gates_by_layer_stack_layers_in_the_order_of_their_numbers(two):
    axes, _ = figures.gates_by_layer(two[0]).axes
    (mesh,) = axes.collections
    table = np.asarray(mesh.get_array()).reshape(11, 4)
    np.testing.assert_allclose(table[:, -1], 0.1 * np.arange(1, 12))  # 10 comes after 9, not after 1


def test_a_run_without_gates_has_no_figures_of_them(write_run):
    run = read_run(write_run([{"step": 1, "loss": -1.0, "accuracy": 0.5}], recipe="masking: {span: 10}"))
    for draw in (figures.gates, figures.sparsity, figures.multipliers, figures.pairing):
        assert draw([run]) is None
    assert figures.gates_by_layer(run) is None
    loss, accuracy = figures.learning([run]).axes
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert loss.get_yscale() == "linear"  # it is negative


def test_long_curves_are_drawn_as_means_of_neighbours():
    curve = Curve(np.arange(1, 4001), np.arange(4000.0))
    steps, values = figures._thinned(curve)
    assert len(steps) == figures.MOST_POINTS and steps[-1] == 4000
    assert values.mean() == pytest.approx(curve.values.mean())
    assert values[0] == pytest.approx(4.5)


def test_the_trade_off_has_error_bars_of_all_measures():
    large = figures.Compared(((30.0, 2.0), (80.0, 4.0)), (0.1, 0.01))
    small = figures.Compared(((20.0, 1.0), (90.0, 5.0)), (0.2, 0.02))
    figure = figures.trade_off(
        {"a": [large, small], "b": [figures.Compared(((25.0, 0.0), (60.0, 0.0)), (0.15, 0.0))]},
        costs=["parameters (M)", "10 s in ms"],
        quality="loss",
        missed=[small],
    )
    axes, beside = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), beside.get_xlabel()) == ("parameters (M)", "loss", "10 s in ms")
    of_time, *_ = beside.containers[0]
    assert list(of_time.get_xdata()) == [80.0, 90.0] and list(of_time.get_ydata()) == [0.1, 0.2]  # by time
    assert [list(line.lines[-1].get_xdata()) for line in figure.axes] == [[20.0], [90.0]]  # what missed its target
    line, _, (across, upright) = axes.containers[0]
    assert list(line.get_xdata()) == [20.0, 30.0] and list(line.get_ydata()) == [0.2, 0.1]  # by size
    assert [segment[:, 0].tolist() for segment in across.get_segments()] == [[19.0, 21.0], [28.0, 32.0]]
    assert [segment[:, 1].tolist() for segment in upright.get_segments()] == [
        pytest.approx([0.18, 0.22]),
        pytest.approx([0.09, 0.11]),
    ]
