"""`pruned-upstream parp`: finetuning for speech recognition that prunes weights; `masks` compares the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from . import Amend, RecipeName, add, add_remarks, recordings_row, terminal, train
from .sweep import sweep

if TYPE_CHECKING:
    from ..parp.masks import Overlap


def add_to(app: typer.Typer) -> None:
    """Add `parp` and `masks` to the command line."""
    add(app, parp, "parp parp_10min teacher=wav2vec_small.pt data.train=train.tsv run.folder=runs/parp")
    add(app, masks, "masks runs/parp_a runs/parp_b")


def parp(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to it: data.train=FOLDER parp.sparsity=0.7", show_default=False),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="section.key=a,b,c, repeatable: as `sweep --method parp`.", show_default=False),
    ] = None,
    amend: Amend = False,
) -> None:
    """Prune while finetuning with CTC (PARP, or a baseline); the same command goes on after an interruption."""
    if vary:
        sweep(recipe, overrides, vary=vary, method="parp", amend=amend)
    else:
        train("parp", recipe, overrides, report_table, amend=amend)


def masks(
    models: Annotated[list[Path], typer.Argument(help="Model files or run folders of PARP, at least two.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every matrix as JSON.")] = False,
) -> None:
    """How alike masks are: intersection over union of the living weights, of each pair of models."""
    from ..report.masks import compare_masks

    overlaps = compare_masks(models)
    if as_json:
        typer.echo(json.dumps([{"a": a, "b": b, **vars(found)} for (a, b), found in overlaps.items()], indent=1))
        return
    console = terminal()
    console.print(_pairs(overlaps))
    for (a, b), found in overlaps.items():
        console.print(_layers(f"{a} and {b}", found))


def report_table(report: Mapping[str, Any]) -> Table:
    """A run's report for the terminal."""
    table = Table(title=report["method"], show_header=False)
    table.add_row("sparsity of the pruned matrices", f"{report['sparsity']:.4%}")
    table.add_row("weights that are zero", f"{report['pruned']:,} of {report['prunable']:,}")
    megabytes, dense = report["file_bytes"] / 1e6, report["dense_bytes"] / 1e6
    table.add_row("model file", f"{megabytes:.2f} MB (dense {dense:.2f} MB)")
    table.add_row(*recordings_row(report))
    add_remarks(table, report)
    for source, found in report["tests"].items():
        table.add_row(source, _rates(found))
    return table


def tests_table(tests: Mapping[str, Mapping[str, float]]) -> Table:
    """What was recognised, for the terminal."""
    table = Table(title="recognised", title_justify="left")
    for column in ("source", "errors", "recordings", "skipped"):
        table.add_column(column, justify="left" if column in ("source", "errors") else "right")
    for source, found in tests.items():
        table.add_row(source, _rates(found), f"{found['recordings']:.0f}", f"{found.get('skipped', 0):.0f}")
    return table


def _rates(found: Mapping[str, float]) -> str:
    from ..training.recognition import COUNTS, LEARNED_FROM

    rates = ", ".join(f"{name.upper()} {100 * rate:.2f} %" for name, rate in found.items() if name not in COUNTS)
    learned_from = found.get(LEARNED_FROM)
    return rates + (f"; NOT VALID: {learned_from:.0f} RECORDINGS ARE LEARNED FROM" if learned_from else "")


def _pairs(overlaps: dict[tuple[str, str], Overlap]) -> Table:
    table = Table(title="Overlap of living weights (intersection over union)", title_justify="left")
    for name in ("model", "model", "overlap", "by chance"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for (a, b), found in overlaps.items():
        table.add_row(a, b, f"{found.whole:.1%}", f"{found.chance:.1%}")
    return table


def _layers(title: str, found: Overlap) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("layer", justify="right")
    kinds = list(found.kinds)
    for kind in (*kinds, "all"):
        table.add_column(kind, justify="right")
    for layer, whole in found.layers.items():
        table.add_row(str(layer), *(_cell(found, layer, kind) for kind in kinds), f"{whole:.1%}")
    table.add_row("all", *(f"{found.kinds[kind]:.1%}" for kind in kinds), f"{found.whole:.1%}", style="bold")
    return table


def _cell(found: Overlap, layer: int, kind: str) -> str:
    from ..parp.masks import place

    return next((f"{value:.1%}" for name, value in found.matrices.items() if place(name) == (layer, kind)), "")
