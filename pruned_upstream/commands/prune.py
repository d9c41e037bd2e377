"""`pruned-upstream prune`: from a teacher and a folder of speech to a compact model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from . import Amend, RecipeName, add, add_remarks, recordings_row, size_row, train

if TYPE_CHECKING:
    from ..training.prune import PruneRecipe


def add_to(app: typer.Typer) -> None:
    """Add `prune` to the command line."""
    add(
        app,
        prune,
        "prune wavlm_base teacher=WavLM-Base.pt data.train=LibriSpeech run.folder=runs/wavlm80",
        "prune runs/wavlm80/recipe.yaml optimisation.steps=60000 --amend",
    )


def prune(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it: data.train=FOLDER run.seed=1", show_default=False)
    ] = None,
    amend: Amend = False,
) -> None:
    """Prune a speech encoder with distillation; the same command goes on after an interruption.

    Exit code 3: the model is there, and misses its target by more than sparsity.tolerance.

    Several processes: torchrun --nproc-per-node 4 -m pruned_upstream.cli prune RECIPE
    """
    train("prune", recipe, overrides, report_table, amend=amend, more_tables=_sizes)


def _sizes(recipe: PruneRecipe) -> Iterator[Table]:
    """Of a run that leaves several models: what each costs and keeps."""
    if recipe.sparsity.targets is None:
        return
    from ..training.size_table import table_of_sizes

    table = Table(title="sizes of this run", title_justify="left")
    names = ("target", "parameters", "MACs (G)", f"{recipe.latency.seconds:g} s in ms", "dense", "distance")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("file")
    for row in table_of_sizes(recipe):
        times = (f"{1e3 * seconds:.1f}" for seconds in (row.seconds, row.dense_seconds))
        size = (f"{row.target:.0%}", f"{row.parameters / 1e6:.2f}M", f"{row.macs / 1e9:.1f}")
        table.add_row(*size, *times, f"{row.distance:.4f}", row.file)
    yield table


def report_table(report: Mapping[str, Any]) -> Table:
    """A run's report for the terminal."""
    table = Table(title="pruned", show_header=False)
    table.add_row(*size_row(report))
    scope = {"everything": "everything", "macs": "the MACs", "latency": "the time"}.get(
        report["scope"], f"the {report['scope']}"
    )
    table.add_row("sparsity, target", f"{report['target_sparsity']:.2%} of {scope}")
    if report["steps"]:
        table.add_row("sparsity, expected by the gates", f"{report['expected_sparsity']:.2%}")
    reached = f"{report['counted_sparsity']:.2%}"
    table.add_row("sparsity, counted in the file", f"{reached}, TARGET MISSED" if report["missed"] else reached)
    table.add_row("compact against gated, largest difference", f"{report['difference_from_gated']:.1e}")
    table.add_row("steps", str(report["steps"]))
    if report.get("second_stage"):
        stage = report["second_stage"]
        table.add_row("steps of the second stage", str(stage["steps"]))
        table.add_row("loss of a batch before and after it", f"{stage['loss_before']:.4g}, {stage['loss_after']:.4g}")
    for place, found in report["repairs"].items():
        row = f"{found['before']:.4f} before, {found['after']:.4f} after"
        table.add_row(f"distance from the teacher's layers, repair {place.replace('_', ' ')}", row)
    table.add_row(*recordings_row(report))
    add_remarks(table, report)
    return table
