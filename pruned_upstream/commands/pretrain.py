"""`pruned-upstream pretrain`: a small teacher of one's own, from a folder of speech alone."""

from __future__ import annotations

from typing import Annotated

import typer

from . import Amend, RecipeName, add, train


def add_to(app: typer.Typer) -> None:
    """Add `pretrain` to the command line."""
    add(app, pretrain, "pretrain demo_teacher data.train=LibriSpeech run.folder=runs/teacher")


def pretrain(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it: data.train=FOLDER shape.layers=4", show_default=False)
    ] = None,
    amend: Amend = False,
) -> None:
    """Train a small encoder from scratch by masked prediction; the same command goes on after an interruption."""
    train("pretrain", recipe, overrides, amend=amend)
