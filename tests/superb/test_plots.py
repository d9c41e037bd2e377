"""Plots: what is drawn, where, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.description.figures import save_figure
from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.superb.plots import _spread, score_against_size, task_profile
from pruned_upstream.superb.published import published_rows
from pruned_upstream.superb.report import Entry

pytest.importorskip("matplotlib")


def texts(figure) -> str:
    import matplotlib.text

    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def marks(figure) -> set[tuple[float, float]]:
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    }


def test_every_model_with_a_score_and_a_size_is_drawn_where_it_belongs(make_results):
    entries = [Entry.measured(make_results()), *map(Entry.published, published_rows())]
    figure = score_against_size(entries)
    drawn = {
        (entry.parameters / 1e6, entry.superb_s) for entry in entries if entry.parameters and entry.superb_s is not None
    }
    assert marks(figure) == drawn and len(drawn) > 15
    said = texts(figure)
    assert "ours" in said and "published" in said and "measured" in said
    assert "not drawn" in said and "FBANK" in said.split("not drawn")[1]


def test_macs_are_those_of_the_official_utterances(make_results):
    figure = score_against_size([Entry.measured(make_results())], macs=True)
    assert [x for x, _ in marks(figure)] == [600.0]


def test_a_partial_result_is_named_but_not_drawn(make_results):
    figure = score_against_size([Entry.measured(make_results("half", tasks=("ks",)))])
    assert marks(figure) == set()
    assert "half" in texts(figure).split("not drawn")[1]
    assert "no model has all ten tasks, official, and a size" in texts(figure)


@pytest.mark.parametrize("value", [5.0, 100.0])
def test_the_names_of_the_two_lines_never_overlap(make_results, value):
    """Toy data: an MTWV of 100 is worth 12007 points, beside which FBANK and WavLM Large are close neighbours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = task_profile([Entry.measured(make_results(tasks=("qbe",), metrics={"qbe.mtwv": value}))])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    names = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert not names["FBANK"].overlaps(names["WavLM Large"])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in names.values()), "a name is cut off"


def test_the_profile_marks_the_tasks_that_are_there(make_results):
    figure = task_profile([Entry.measured(make_results(tasks=("ks", "sf"), why_unofficial="short"))])
    points = sorted(x for x, _ in marks(figure))
    f1, accuracy = 1000 * (87.14 - 69.64) / (92.21 - 69.64), 1000 * (96.57 - 41.38) / (97.86 - 41.38)
    assert points == pytest.approx([f1, accuracy])
    assert "ours, measured, not official" in texts(figure)


@pytest.mark.parametrize("value", [75.0, 0.0])
def test_the_axis_holds_every_mark(make_results, value):
    """None is moved to an edge: the axis has no break."""
    figure = task_profile([Entry.measured(make_results(tasks=("qbe",), metrics={"qbe.mtwv": value}))])
    ((x, _),) = marks(figure)
    assert x == pytest.approx(1000 * (value - 0.58) / (8.86 - 0.58))
    low, high = figure.axes[0].get_xlim()
    assert low < min(x, 0) and high > max(x, 1000)


def test_beside_other_models_nothing_is_drawn_that_is_not_official(make_results):
    whole, toy = make_results("mixed"), make_results(tasks=("qbe",), metrics={"qbe.mtwv": 75.0}, why_unofficial="toy")
    whole.tasks["qbe"] = toy.tasks["qbe"]
    entries = [Entry.measured(whole), Entry.published(published_rows()[3])]
    profile = task_profile(entries)
    assert len(marks(profile)) == 9 + 10 and max(x for x, _ in marks(profile)) < 1100
    assert "not drawn (not official): mixed (qbe)" in texts(profile)
    size = score_against_size(entries)
    assert len(marks(size)) == 1 and "not drawn (not official): mixed" in texts(size)
    assert len(marks(score_against_size(entries[:1]))) == 1, "alone it is drawn, half-filled"


@given(st.lists(st.floats(-0.5, 1.5), max_size=15))
def test_labels_keep_their_order_their_distance_and_the_axes(heights):
    heights = sorted(heights)
    gap = 1 / 16
    spread = _spread(heights, gap)
    assert len(spread) == len(heights)
    assert all(0 <= height <= 1 + 1e-9 for height in spread)
    assert all(b - a >= gap - 1e-9 for a, b in zip(spread, spread[1:], strict=False))


def test_labels_that_have_room_stay_where_they_are():
    assert _spread([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])
    assert _spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_figures_are_written_whole(make_results, tmp_path, suffix):
    path = tmp_path / f"scores.{suffix}"
    save_figure(score_against_size([Entry.measured(make_results())]), path)
    start = path.read_bytes()[:5]
    assert start == {"png": b"\x89PNG\r", "pdf": b"%PDF-", "svg": b"<?xml"}[suffix]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(make_results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunedUpstreamError, match="file"):
        save_figure(task_profile([Entry.measured(make_results())]), tmp_path / "file" / "x.png")
