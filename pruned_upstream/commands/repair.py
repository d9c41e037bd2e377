"""`pruned-upstream repair`: what a model has lost by being cut, made up for in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import add, is_first_process, log_to_terminal, terminal


def add_to(app: typer.Typer) -> None:
    """Add `repair` to the command line."""
    add(app, repair, "repair runs/wavlm80/compact.safetensors teacher=WavLM-Base.pt data.train=LibriSpeech/dev-clean")


def repair(
    file: Annotated[Path, typer.Argument(help="A compact model file.")],
    overrides: Annotated[
        list[str],
        typer.Argument(help="teacher=FILE and data.train=FOLDER; also repair.seconds, repair.damping, device, seed."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The repaired file; FILE's name with _repaired, beside it.", show_default=False)
    ] = None,
) -> None:
    """Refit the output matrices of a pruned model to its teacher's layers on some minutes of speech; no training."""
    from ..model.hub import local_file
    from ..training.recipe import recipe_from
    from ..training.repairing import RepairRecipe, run_repair

    log_to_terminal()
    file = local_file(file)
    target = out or file.with_name(f"{file.stem}_repaired{file.suffix}")
    facts = run_repair(file, recipe_from(overrides, RepairRecipe), target)
    if is_first_process():
        console = terminal()
        console.print(
            f"distance from the teacher's layers, share of their variance: {facts['before']:.4f} before, "
            f"{facts['after']:.4f} after, on {facts['frames']:,} frames"
        )
        console.print(f"wrote {target}")
