"""The command line, one file per group of commands; each offers `add_to(app)`. Rooms do the work."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


LARGE_STATE = 100_000_000  # bytes that are worth a line
MISSED = 3  # exit code of a run whose model is further from its target than the recipe tolerates

Amend = Annotated[
    bool,
    typer.Option(
        "--amend",
        help="Go on although keys differ that may change on the way (rates, steps ...); the report tells.",
    ),
]
RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with the package.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pruned_upstream {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Compress self-supervised speech encoders and score them through s3prl."""


class _WithoutBool(TyperCommand):
    """A command whose help shows no type at flags: there is nothing to give behind them."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_flags(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of commands, without a type at flags either."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's options, and the one that shows its help."""
        return _plain_flags(super().get_params(ctx))


def _plain_flags(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def add(app: typer.Typer, command: Callable[..., None], *examples: str) -> None:
    """Add a command by the name of its function; its help ends with real calls, given without `pruned-upstream`.

    The docstring is its help: paragraphs fill the terminal's width, lines that begin with "- " stay a list.
    """
    calls = "\n\n".join(f"  pruned-upstream {example}".replace("[", r"\[") for example in examples)
    app.command(cls=_WithoutBool, help=_flowing(command), epilog=f"Examples:\n\n{calls}")(command)


def _flowing(command: Callable[..., None]) -> str:
    lines = (inspect.getdoc(command) or "").split("\n")
    return re.sub(r"(?<!\n)\n(?!\n|- )", " ", "\n".join(lines))


def terminal(*, stderr: bool = False) -> Console:
    """Where commands print. Text is shown as it is: `[v2]` in the name of a file is no markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False)


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
    *,
    amend: bool = False,
    more_tables: Callable[[Any], Iterable[Table]] | None = None,
) -> None:
    """Train by a method of `training.methods` as the recipe says, then show the run's report and where the model is.

    Raises:
        typer.Exit: with code 3 where the model misses its target by more than is tolerated.
    """
    from ..training.methods import method_named
    from ..training.provenance import read_report
    from ..training.recipe import load_recipe

    way = method_named(method)
    console = terminal()
    log_to_terminal()
    asked = load_recipe(recipe, way.recipe_class, overrides or [])
    model = way.run_recipe(asked, amend=amend)
    if not is_first_process():
        return
    report = read_report(model.parent)
    if report_table is not None:
        console.print(report_table(report))
    for table in more_tables(asked) if more_tables is not None else ():
        console.print(table)
    from ..readme import PAGE, README
    from ..report.folder import explain

    state = explain(model.parent)
    console.print(f"wrote {model}", soft_wrap=True)
    console.print(f"look at {model.parent / PAGE}; {README} beside it says what each file is", soft_wrap=True)
    if state > LARGE_STATE:
        size = f"{state / 1e9:.1f} GB"
        console.print(f"state.pt, {size}, is for extending the run; delete it if you will not", soft_wrap=True)
    if report.get("missed"):
        console.print(report["missed"], style="bold red", soft_wrap=True)
        if not asked.sparsity.may_miss:
            raise typer.Exit(MISSED)


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
    """ "3" as 3 and "epoch" as it is: what an option that takes either was given."""
    return int(value) if value.isdecimal() else value


def size_row(report: Mapping[str, Any]) -> tuple[str, str]:
    """Of a training's report in the terminal: what is left of the teacher."""
    before, after = report["teacher_parameters"], report["parameters"]
    return "parameters", f"{after / 1e6:.2f}M of {before / 1e6:.2f}M ({1 - after / before:.1%} fewer)"


def recordings_row(report: Mapping[str, Any]) -> tuple[str, str]:
    """Of a training's report in the terminal: what it learned from, and what it could not use."""
    return "recordings", (
        f"{report['recordings']} ({report['hours']:.2f} h), {len(report['skipped'])} skipped before training, "
        f"{len(report['dropped'])} found unusable in it"
    )


def add_remarks(table: Table, report: Mapping[str, Any]) -> None:
    """Rows of a training's report that only some runs have."""
    from ..training.reports import LOOKS_HELD_OUT, remarks

    for title, said in remarks(report):
        table.add_row(title, said, style="bold red" if title == LOOKS_HELD_OUT else None)
