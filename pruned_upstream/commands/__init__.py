"""The command line, one file a group of commands; each offers `add_to(app)`. Rooms do the work."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with the package.")]


def log_to_terminal(console: Console | None = None) -> None:
    """Show what the rooms log, beside progress bars of the same console; of several processes only the first tells
    how things go, all of them warn."""
    from rich.logging import RichHandler

    logger = logging.getLogger("pruned_upstream")
    logger.setLevel(logging.INFO if is_first_process() else logging.WARNING)
    logger.addHandler(RichHandler(console=console, show_path=False))


def is_first_process() -> bool:
    """Of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def train(
    method: str,
    recipe: str,
    overrides: Sequence[str] | None,
    report_table: Callable[[Mapping[str, Any]], Table] | None = None,
) -> None:
    """Train by a method of `training.methods` as the recipe says, then show the run's report and where the model is."""
    from rich.console import Console

    from ..training.methods import method_named
    from ..training.provenance import REPORT_FILE
    from ..training.recipe import load_recipe

    way = method_named(method)
    console = Console()
    log_to_terminal()
    model = way.run_recipe(load_recipe(recipe, way.recipe_class, overrides or []))
    if not is_first_process():
        return
    if report_table is not None:
        console.print(report_table(json.loads((model.parent / REPORT_FILE).read_text(encoding="utf-8"))))
    console.print(f"wrote {model}")


def pairs(entries: Sequence[str] | None, option: str) -> dict[str, str]:
    """Values of a repeatable option KEY=VALUE.

    Raises:
        ConfigError: an entry has another form; `option` is named.
    """
    found = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{option} takes KEY=VALUE, not '{entry}'")
        found[key] = value
    return found


def number_or_text(value: str) -> str | int:
    return int(value) if value.isdecimal() else value


def size_row(report: Mapping[str, Any]) -> tuple[str, str]:
    """Of a training's report in the terminal: what is left of the teacher."""
    before, after = report["teacher_parameters"], report["parameters"]
    return "parameters", f"{after / 1e6:.2f}M of {before / 1e6:.2f}M ({1 - after / before:.1%} fewer)"


def recordings_row(report: Mapping[str, Any]) -> tuple[str, str]:
    """Of a training's report in the terminal: what it learned from."""
    return "recordings", f"{report['recordings']} ({report['hours']:.2f} h), {len(report['skipped'])} skipped"
