"""`pruned-upstream`: collects the commands, and turns a user's mistake into a sentence and exit code 2."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import TYPE_CHECKING

from .errors import PrunedUpstreamError
from .extras import remedy
from .parsing import printable

if TYPE_CHECKING:
    import typer

USAGE_ERROR = 2
INTERRUPTED = 130
LONGEST_SENTENCE = 2000  # characters
NO_MEMORY = "there is not enough memory; take smaller batches, or a larger machine"
# what torch says in a RuntimeError where the machine is at fault, and what to do
MACHINE_FAULTS = {
    "DataLoader worker": "a data loading process was killed, mostly for want of memory; take fewer data.workers or ask "
    "for more memory, and give the same command again: it goes on from the last state",
    "can't allocate memory": NO_MEMORY,
    "out of memory": NO_MEMORY,
}


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
    try:
        build_app()()
    except PrunedUpstreamError as error:
        _complain(str(error))
    except ModuleNotFoundError as error:
        sentence = remedy(error.name or "")
        if sentence is None:
            raise
        _complain(sentence)
    except OSError as error:  # a full disk, a folder without permission: the machine's fault, wherever it shows
        place = f"{error.filename}: " if error.filename else ""
        _complain(f"{place}{error.strerror or error}; mend that, and give the same command again")
    except MemoryError:
        _complain(NO_MEMORY)
    except RuntimeError as error:
        sentence = next((said for words, said in MACHINE_FAULTS.items() if words in str(error)), None)
        if sentence is None:
            raise
        _complain(sentence)
    except SystemExit as ended:  # typer makes one of a KeyboardInterrupt, and says nothing
        if ended.code == INTERRUPTED:
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise


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
