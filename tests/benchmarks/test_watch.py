"""The comparison of two trees: what it reports, and that it runs."""

from __future__ import annotations

import itertools

import pytest

from benchmarks import watch


def test_rounds_go_there_and_back() -> None:
    order = []
    counter = itertools.count(1)

    def measure(name: str):
        def run() -> float:
            order.append(name)
            return float(next(counter))

        return run

    assert watch.compare(measure("base"), measure("now"), 3) == [(1.0, 2.0), (4.0, 3.0), (5.0, 6.0)]
    assert order == ["base", "now", "now", "base", "base", "now"]


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1.0, 2.0), (1.1, 2.0)], "SLOWER"),
        ([(2.0, 1.0), (2.2, 1.0)], "faster"),
        ([(1.0, 1.3), (1.2, 1.0)], ""),  # the range decides, not the median
        ([(1.0, 2.0)], ""),  # one round has no range
    ],
)
def test_what_is_pointed_out(pairs, verdict) -> None:
    assert watch.row("x", pairs).split(" | ")[-1].removesuffix(" |") == verdict


@pytest.mark.slow
def test_a_commit_is_compared(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["watch", "HEAD", "--short", "--rounds", "1", "--only", "load"])
    watch.main()
    printed = capsys.readouterr().out
    assert "| load |" in printed and "not compared" not in printed


def test_a_tree_that_cannot_run_it_is_named(tmp_path) -> None:
    (tmp_path / "pruned_upstream").mkdir()
    (tmp_path / "pruned_upstream" / "__init__.py").write_text("")
    with pytest.raises(RuntimeError, match="ModuleNotFoundError|ImportError"):
        watch.Child(tmp_path, "load", short=True)
