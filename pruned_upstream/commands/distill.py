"""`pruned-upstream distill`: from a teacher and a folder of speech to a shallow student (DistilHuBERT)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import RecipeName, log_to_terminal, recordings_row, size_row


def add_to(app: typer.Typer) -> None:
    app.command()(distill)


def distill(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it: data.train=FOLDER student.layers=3", show_default=False)
    ] = None,
) -> None:
    """Distil a speech encoder into a shallow student; the same command goes on after an interruption.

    Several processes: torchrun --nproc-per-node 4 -m pruned_upstream.cli distill RECIPE
    """
    from ..training.distill import REPORT_FILE, DistillRecipe, run_distill
    from ..training.recipe import load_recipe

    console = Console()
    log_to_terminal()
    model = run_distill(load_recipe(recipe, overrides or [], DistillRecipe))
    console.print(report_table(model.parent / REPORT_FILE))
    console.print(f"wrote {model}")


def report_table(path: Path) -> Table:
    """A run's report for the terminal."""
    report = json.loads(path.read_text(encoding="utf-8"))
    table = Table(title="distilled", show_header=False)
    table.add_row(*size_row(report))
    table.add_row("layers", str(report["layers"]))
    table.add_row("learned to predict layers", ", ".join(map(str, report["predicted_layers"])))
    table.add_row("prediction heads", "kept" if report["heads_kept"] else "dropped")
    table.add_row("steps", str(report["steps"]))
    table.add_row(*recordings_row(report))
    return table
