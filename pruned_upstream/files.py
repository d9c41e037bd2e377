"""Writing files so that a reader never sees half of one, and folders that one process works in at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .errors import DataError, PrunedUpstreamError
from .parsing import as_utf8, is_text

log = logging.getLogger(__name__)

LOCK_PATIENCE_SECONDS = 10.0  # data loading processes of a killed run notice its end after some seconds
LOCK_POLL_SECONDS = 0.2
FILLED = {errno.ENOTEMPTY, errno.EEXIST}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system without them
# the name of what is not complete yet says who writes it, so that what a killed process left can be told and removed
UNFINISHED = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[^.]+\.unfinished")
NAME_SHOWN = 40  # characters of the final name within that of the unfinished; a name has at most 255 bytes
PROBE_BYTES = 1 << 16
FOREIGN_PATIENCE_SECONDS = 24 * 3600.0  # of another machine one cannot see whether a process lives
TOGETHER = "together"  # in the name of what holds files that belong together until all are whole


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for what will be `path`; on success it takes that name, on failure it vanishes.

    It has the final file's name, in a hidden folder beside it: whatever a library puts beside the file that it writes
    goes with the folder, and formats that keep the name of their file keep the right one. What a killed process left of
    the same file goes first.

    Raises:
        PrunedUpstreamError: the folder cannot be written, the disk is full, or the name is not UTF-8; `path` keeps what
            it held.
    """
    path = Path(path)
    _refuse_folder(path)
    if not is_text(str(path)):
        raise PrunedUpstreamError(
            f"the name of {as_utf8(str(path))} is not UTF-8, and not every library can write such; name another place"
        )
    with _beside(path) as folder:
        temporary = folder / path.name
        temporary.touch()
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # here, since a library may have put a file of its own in this place
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file; what is no text, of names that are not UTF-8, is escaped. Raises as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def atomic_folder(path: str | Path, last: str) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes that name, on failure it vanishes.

    Where `path` holds hidden files already (a clone's .git), its files move in beside them one by one.

    Args:
        last: the file without which the folder does not count as complete; it moves last.

    Raises:
        PrunedUpstreamError: it cannot be written, or the disk is full; or `path` holds other files.
    """
    path = Path(path)
    with _beside(path) as folder:
        _refuse_filled(path)
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        if path.exists() or not _renamed(temporary, path):
            with _held(path):
                _refuse_filled(path)
                for file in sorted(temporary.iterdir(), key=lambda file: file.name == last):
                    os.replace(file, path / file.name)


def _renamed(folder: Path, path: Path) -> bool:
    """Whether it could take this name; it cannot where another process has filled a folder of the name meanwhile."""
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno not in FILLED:
            raise
        return False
    return True


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder without leaving a file in it; where its file system has no locks, nothing is held."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_files(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder for files that belong together; on success they take the places of those in `folder` that
    have their names, on failure they vanish, and every earlier one stays.

    All are whole and on the disk before the first takes its place. Write them with what is in this module; folders in
    it are those of `folder`.

    Raises:
        PrunedUpstreamError: the folder cannot be written or the disk is full; `folder` keeps what it held.
    """
    folder = make_folder(folder)
    with _beside(folder / TOGETHER, said=f"into {folder}") as temporary:
        yield temporary
        places = {file: folder / file.relative_to(temporary) for file in temporary.rglob("*") if file.is_file()}
        for place in places.values():
            make_folder(place.parent)
            _refuse_folder(place)
        with _held(folder):  # of two groups at once, all files are the later one's
            for file, place in places.items():
                os.replace(file, place)


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise PrunedUpstreamError(f"{_place(path)} is a folder where a file is to be written; name another place")


def _refuse_filled(path: Path) -> None:
    """Raise PrunedUpstreamError if the folder holds anything but hidden files, or is a file."""
    there = [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
    if there or path.is_file():
        held = f"holds {there[0].name} already" if there else "is a file"
        raise PrunedUpstreamError(f"{path} {held}; name another folder, or remove what is there")


@contextlib.contextmanager
def _beside(path: Path, said: str = "") -> Iterator[Path]:
    """Yield an empty hidden folder for what will be `path`, on the same disk; it goes in any case.

    Args:
        said: of the place where something is wrong; by default the path.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, of=path.name)
        temporary = Path(tempfile.mkdtemp(**_unfinished(path)))
        yield temporary
    except PrunedUpstreamError:
        raise
    except Exception as error:
        fault = error if isinstance(error, OSError) else disk_fault(temporary)
        if fault is None:
            raise
        raise PrunedUpstreamError(
            f"could not write {said or _place(path)}: {fault.strerror or fault}; nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _place(path: Path) -> Path:
    """Where a file will be: paths within folders of unfinished ones are nobody's business."""
    return Path(*(part for part in path.parts if not UNFINISHED.fullmatch(part)))


def disk_fault(folder: Path | None) -> OSError | None:
    """What is wrong with the disk, if anything: libraries have errors of their own for a full one, torch a RuntimeError
    about positions, so that the disk itself is asked."""
    if folder is None:
        return None
    probe = folder / f".probe.{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def make_folder(path: str | Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        PrunedUpstreamError: it cannot be made; the reason is named.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise PrunedUpstreamError(f"{path} is a file where a folder is needed; name another place") from error
    except OSError as error:
        raise PrunedUpstreamError(
            f"the folder {path} cannot be made: {error.strerror}; name another place, or ask for the right to write"
        ) from error
    return Path(path)


def remove_unfinished(folder: Path, of: str | None = None) -> None:
    """Remove from this folder (not from those in it) what dead processes left of files that they did not complete.

    Args:
        of: only what was to become a file of this name.
    """
    begins = "" if of is None else _prefix(of)
    for entry in folder.iterdir():
        writer = UNFINISHED.fullmatch(entry.name)
        if writer and entry.name.startswith(begins) and _is_dead(writer["host"], int(writer["pid"]), entry):
            shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the folder's lock; forked children hold it too, until the last of them has ended.

    It goes with the process: a killed one leaves none. On a file system without locks a warning is all there is. What
    killed processes left unfinished in the folder is removed.

    Raises:
        DataError: another process holds it; it is named.
        PrunedUpstreamError: the folder cannot be made or written.
    """
    make_folder(folder)
    with _opened(folder / name) as file:
        give_up = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not _take(file.fileno(), folder):
            if time.monotonic() > give_up:
                file.seek(0)
                holder = file.read(200).strip()
                raise DataError(
                    f"{folder} is in use by another run{f' ({holder})' if holder else ''}; wait for it, or give "
                    "another folder"
                )
            time.sleep(LOCK_POLL_SECONDS)
        with contextlib.suppress(OSError):  # on a full disk: the name is a courtesy
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        remove_unfinished(folder)
        yield


def _take(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise PrunedUpstreamError(f"{folder} cannot be locked: {error.strerror}; name another folder") from error
        log.warning("the file system of %s has no locks: see to it that no other run writes there", folder)
    return True


def _opened(path: Path) -> TextIO:
    try:
        return open(path, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise PrunedUpstreamError(f"{path.parent} cannot be written: {error.strerror}; name another folder") from error


def _unfinished(path: Path) -> dict[str, Any]:
    """Arguments of `tempfile` for something that will be called `path`; `UNFINISHED` reads the name."""
    prefix = f"{_prefix(path.name)}{_host()}.{os.getpid()}."
    return {"prefix": prefix, "suffix": ".unfinished", "dir": str(path.parent)}


def _prefix(name: str) -> str:
    return f".{name[:NAME_SHOWN]}."


def _host() -> str:
    return socket.gethostname().replace(".", "-")[:NAME_SHOWN]


def _is_dead(host: str, pid: int, entry: Path) -> bool:
    """Whether the process that writes `entry` is gone."""
    if host != _host():
        try:
            return time.time() - entry.stat().st_mtime > FOREIGN_PATIENCE_SECONDS
        except FileNotFoundError:  # completed meanwhile
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, alive
        return False
    return False


def _umask() -> int:
    """The process's umask; reading it means setting it, so it is put back at once."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
