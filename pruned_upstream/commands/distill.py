"""`pruned-upstream distill`: from a teacher and a folder of speech to a shallow student (DistilHuBERT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from . import Amend, RecipeName, add, add_remarks, recordings_row, size_row, train


def add_to(app: typer.Typer) -> None:
    """Add `distill` to the command line."""
    add(app, distill, "distill distil_wavlm teacher=WavLM-Base.pt data.train=LibriSpeech run.folder=runs/distil")


def distill(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it: data.train=FOLDER student.layers=3", show_default=False)
    ] = None,
    amend: Amend = False,
) -> None:
    """Distil a speech encoder into a shallow student; the same command goes on after an interruption.

    Several processes: torchrun --nproc-per-node 4 -m pruned_upstream.cli distill RECIPE
    """
    train("distill", recipe, overrides, report_table, amend=amend)


def report_table(report: Mapping[str, Any]) -> Table:
    """A run's report for the terminal."""
    table = Table(title="distilled", show_header=False)
    table.add_row(*size_row(report))
    table.add_row("layers", str(report["layers"]))
    table.add_row("learned to predict layers", ", ".join(map(str, report["predicted_layers"])))
    table.add_row("prediction heads", "kept" if report["heads_kept"] else "dropped")
    table.add_row("steps", str(report["steps"]))
    table.add_row(*recordings_row(report))
    add_remarks(table, report)
    return table
