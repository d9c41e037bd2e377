"""`pruned-upstream doctor`: what this installation can do, and how to mend what it cannot."""

from __future__ import annotations

import typer

from .. import doctor as rooms
from . import add, terminal

STYLES = {rooms.GOOD: "green", rooms.ABSENT: "dim", rooms.WARNING: "yellow", rooms.BROKEN: "bold red"}


def add_to(app: typer.Typer) -> None:
    """Add `doctor` to the command line."""
    add(app, doctor, "doctor")


def doctor() -> None:
    """Check torch, torchaudio, s3prl, sox, audio formats, GPU, KenLM, onnxruntime, disk and the hook.

    Says how to mend each; ends with 1 if something is broken. An extra that is not installed is no fault.
    Where even this command does not start: python -m pruned_upstream.doctor
    """
    from rich.text import Text

    console = terminal()
    with console.status("looking"):
        findings = rooms.examine()
    for finding in findings:
        console.print(Text("\n".join(rooms.lines([finding])), style=STYLES[finding.state]), soft_wrap=True)
    raise typer.Exit(0 if rooms.is_healthy(findings) else 1)
