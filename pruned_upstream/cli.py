"""`pruned-upstream`: collects the commands, and turns a user's mistake into a sentence and exit code 2."""

from __future__ import annotations

import importlib
import io
import pkgutil
import sys
from typing import TYPE_CHECKING

from .errors import PrunedUpstreamError
from .extras import remedy
from .machine import fault, signals_as_interruptions
from .parsing import printable

if TYPE_CHECKING:
    import typer

USAGE_ERROR = 2
INTERRUPTED = 130
LONGEST_SENTENCE = 2000  # characters


def build_app() -> typer.Typer:
    """The application with every command that `commands/` holds, in the order of the files' names."""
    import typer

    from . import commands

    app = typer.Typer(
        name="pruned-upstream",
        cls=commands.CommandGroup,
        help="Compress self-supervised speech encoders and score them through s3prl.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(commands.options)
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").add_to(app)
    return app


def main() -> None:
    """The console script: run the command, and say mistakes of the user in a sentence, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal, or a name that is not UTF-8, has no characters for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals_as_interruptions():
            build_app()()
    except PrunedUpstreamError as error:
        _complain(str(error))
    except ModuleNotFoundError as error:
        sentence = remedy(error.name or "")
        if sentence is None:
            raise
        _complain(sentence)
    except (OSError, MemoryError, RuntimeError) as error:  # the machine's fault, wherever it shows
        sentence = fault(error)
        if sentence is None:
            raise
        _complain(sentence)
    except KeyboardInterrupt:  # ahead of typer
        _say_interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as ended:  # typer makes one of a KeyboardInterrupt, and says nothing
        if ended.code == INTERRUPTED:
            _say_interrupted()
        raise


def _say_interrupted() -> None:
    print("interrupted; the same command goes on where it stopped", file=sys.stderr)


def _complain(sentence: str) -> None:
    """Say what is wrong, and end; without colours where rich is what is missing or broken."""
    sentence = printable(sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]} ...")
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        print(f"error: {sentence}", file=sys.stderr)
    else:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), sentence), soft_wrap=True)
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
