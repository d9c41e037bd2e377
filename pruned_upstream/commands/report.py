"""`pruned-upstream report`: a page about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import add


def add_to(app: typer.Typer) -> None:
    """Add `report` to the command line."""
    add(app, report, "report runs/wavlm80", "report runs/a runs/b --superb runs/superb/a --out comparison.html")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trainings, finished or not.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    superb: Annotated[
        list[Path] | None, typer.Option(help="A superb run whose scores are shown, repeatable.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default=False)] = None,
) -> None:
    """Write one HTML page about runs: numbers, recipes, figures. It needs no other file and no network."""
    from ..report.page import status, write_page
    from ..report.runs import read_runs
    from ..superb.results import read_results

    found = read_runs(runs)
    write_page(out, found, [read_results(folder) for folder in superb or []], title=title)
    for run in found:
        typer.echo(f"{run.name}: {status(run)}")
    typer.echo(f"wrote {out}")
