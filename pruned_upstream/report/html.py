"""HTML pages that need nothing else: tables and figures (SVG) are part of them, there is no script.

Everything that comes from a file is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files import write_text
from .svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..jobs import Failure


@dataclass(frozen=True)
class Grid:
    """A table: rows of a name and one cell per column.

    Attributes:
        marked: the (row, column) of cells that stand out.
        links: a row's name -> the page behind it.
    """

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    marked: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `svg` is markup."""

    title: str
    caption: str
    svg: str


def pictures(drawn: Iterable[tuple[str, str, Figure | None]]) -> Iterator[Picture]:
    """Figures as parts of one page, from (title, caption, figure); None is left out."""
    for number, (title, caption, figure) in enumerate(drawn, 1):
        if figure is not None:
            yield Picture(title, caption, inline_svg(figure, f"figure{number}", title))


def write_html(
    path: str | Path,
    template: str,
    title: str,
    figures: Iterable[Picture],
    failures: Mapping[str, Failure] | None = None,
    **content: Any,
) -> None:
    """Fill one of the room's templates.

    Args:
        failures: what failed, and how; said first.
        content: what the template names.

    Raises:
        PrunedUpstreamError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = time.strftime("%Y-%m-%d %H:%M")
    content |= {"title": title, "version": __version__, "written": written, "pictures": list(figures)}
    write_text(path, environment.get_template(template).render(failures=failures or {}, **content))


def duration(seconds: float) -> str:
    """`1 h 05 min`, `4 min 10 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
