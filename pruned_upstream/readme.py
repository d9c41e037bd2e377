"""The README of a folder that a command writes: what it is, what lies in it, and what can be done next."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .files import write_text

README = "README.md"
PAGE = "report.html"  # beside it, in the folder of what it is about


def write_readme(folder: Path, title: str, about: str, contents: Iterable[tuple[str, str]], *then: str) -> None:
    """Write it.

    Args:
        folder: where to write.
        contents: names of what lies in the folder, in Markdown, and what each is.
        then: paragraphs behind the table.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    table = "\n".join(["| here | what it is |", "|---|---|", *(f"| {name} | {said} |" for name, said in contents)])
    write_text(folder / README, "\n\n".join([f"# {title}", about, table, *then]) + "\n")
