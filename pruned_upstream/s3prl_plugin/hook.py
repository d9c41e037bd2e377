"""A .pth file that makes every Python of an environment ready for s3prl, for those who start it from a clone.

Python runs the line of a .pth file in site-packages when it starts. Ours watches for the import of s3prl and does
nothing until then: torch is not loaded, and with PRUNED_UPSTREAM_HOOK=0 this package is not even imported. Nothing is
written into s3prl.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .. import after_import

FILE = "pruned_upstream_s3prl.pth"
SWITCH = "PRUNED_UPSTREAM_HOOK"
# If the package has been removed, the line does nothing.
LINE = (
    f"import importlib.util, os; os.environ.get('{SWITCH}') != '0' and importlib.util.find_spec('pruned_upstream') "
    "and importlib.import_module('pruned_upstream.s3prl_plugin.hook').arm()\n"
)


@dataclass(frozen=True)
class Status:
    """Where the hook is or would be, whether it is there, and whether the environment variable lets it act."""

    path: Path
    installed: bool
    enabled: bool


def install(folder: Path | None = None) -> Path:
    """Write the .pth file; a second time changes nothing.

    Args:
        folder: a site-packages folder; this environment's by default.

    Raises:
        PrunedUpstreamError: the folder cannot be written to.
    """
    from ..files import write_text

    path = _path(folder)
    write_text(path, LINE)
    return path


def remove(folder: Path | None = None) -> bool:
    """Delete the .pth file; False if there was none.

    Raises:
        PrunedUpstreamError: it cannot be deleted.
    """
    from ..errors import PrunedUpstreamError

    path = _path(folder)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PrunedUpstreamError(f"could not delete {path}: {error.strerror}; delete it by hand") from error
    return True


def status(folder: Path | None = None) -> Status:
    """Where the hook is or would be, and whether s3prl is patched at start."""
    path = _path(folder)
    return Status(path, path.is_file(), _enabled())


def arm() -> None:
    """What the .pth file calls: get ready when s3prl is imported."""
    if _enabled():
        after_import.before("s3prl", _prepare)
        after_import.after("torch", _prepare_clone)


def _enabled() -> bool:
    return os.environ.get(SWITCH) != "0"


def _path(folder: Path | None) -> Path:
    return (folder or Path(sysconfig.get_paths()["purelib"])) / FILE


def _prepare() -> None:
    from .registry import register

    register()


def _prepare_clone(torch: ModuleType) -> None:
    """A clone's run_downstream.py imports torchaudio before s3prl, and on a CPU-only torch would not get further."""
    if Path(sys.argv[0]).name == "run_downstream.py":
        _prepare()
