"""Writing files so that a reader never sees half of one, and folders that one process works in at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError, PrunedUpstreamError

LOCK_PATIENCE_SECONDS = 10.0  # data loading processes of a killed run notice its end after some seconds
LOCK_POLL_SECONDS = 0.2


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name `path`, on failure it vanishes.

    Raises:
        PrunedUpstreamError: the folder cannot be written or the disk is full; `path` keeps what it held.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # here, since a library may have put a file of its own in this place
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise PrunedUpstreamError(f"could not write {path}: {error.strerror or error}; nothing was changed") from error
    except BaseException:
        _discard(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file; raises as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the folder's lock; forked children hold it too, until the last of them has ended.

    Raises:
        DataError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w") as file:
        give_up = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise DataError(
                        f"{folder} is in use by another run; wait for it, or give another folder"
                    ) from error
                time.sleep(LOCK_POLL_SECONDS)
        yield


def _discard(temporary: Path | None) -> None:
    if temporary is not None:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask; reading it means setting it, so it is put back at once."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
