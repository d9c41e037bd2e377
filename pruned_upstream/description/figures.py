"""What all figures of the package share: their colours, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def look(number: int, *, marker: bool = True) -> dict[str, Any]:
    """Colour, marker and stroke of the curve `number`: each alone tells curves apart, so that grey ones can be read.

    Args:
        marker: False where a curve has too many points to mark.
    """
    strokes = ("-", "--", "-.", ":")
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)] if marker else None,
        "linestyle": strokes[number % len(strokes)],
    }


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix names the format.

    Raises:
        ConfigError: no picture is known by this suffix.
        PrunedUpstreamError: the file cannot be written.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known and not path.is_dir():
        raise ConfigError(f"{path} has no ending of a picture; name one that ends in .{', .'.join(sorted(known))}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=160)
