"""`pruned-upstream`: collects the commands, and turns a user's mistake into a sentence and exit code 2."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer
from rich.console import Console
from rich.text import Text

from . import commands
from .errors import PrunedUpstreamError

USAGE_ERROR = 2
INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The application with every command that `commands/` holds, in the order of the files' names."""
    app = typer.Typer(
        name="pruned-upstream",
        help="Compress self-supervised speech encoders and score them through s3prl.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").add_to(app)
    return app


def main() -> None:
    console = Console(stderr=True)
    try:
        build_app()()
    except PrunedUpstreamError as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on where it stopped")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
