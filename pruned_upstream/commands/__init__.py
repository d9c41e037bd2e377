"""The command line, one file a group of commands; each offers `add_to(app)`. Rooms do the work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def log_to_terminal(console: Console | None = None) -> None:
    """Show what the rooms log, beside progress bars of the same console."""
    from rich.logging import RichHandler

    logger = logging.getLogger("pruned_upstream")
    logger.setLevel(logging.INFO)
    logger.addHandler(RichHandler(console=console, show_path=False))
