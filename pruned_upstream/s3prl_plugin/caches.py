"""Caches that s3prl keeps beside its own code, led to a folder of their own for each corpus.

Speaker identification stores its lists of files, speaker verification the lengths of its files, in the installed
package and under names that do not depend on the corpus: the second corpus on a machine would be read with the
lists of the first (s3prl, downstream/voxceleb1/dataset.py and downstream/sv_voxceleb1/dataset.py).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import after_import


def lead() -> None:
    """Lead the caches of both tasks to `folder_for` the corpus they are given."""
    after_import.after("s3prl.downstream.voxceleb1.dataset", _identification)
    after_import.after("s3prl.downstream.sv_voxceleb1.dataset", _verification)


def folder_for(*roots: str | Path) -> Path:
    """The cache folder of these folders and files in their present state."""
    return folder(fingerprint(*roots))


def folder(name: str) -> Path:
    """A cache folder under `$XDG_CACHE_HOME` or `~/.cache`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = home / "pruned_upstream" / "s3prl" / name
    found.mkdir(parents=True, exist_ok=True)
    return found


def fingerprint(*roots: str | Path) -> str:
    """A name that changes when a file under `roots` comes, goes, or changes in size or time."""
    digest = hashlib.sha256()
    for root in map(Path, roots):
        digest.update(f"{root.resolve()}\n".encode())
        for path in [root] if root.is_file() else _files(root):
            status = path.stat()
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterable[Path]:
    for folder, names, files in os.walk(root):
        names.sort()
        yield from (Path(folder, name) for name in sorted(files))


def _identification(dataset: Any) -> None:
    def use(folder: Path) -> None:
        dataset.CACHE_PATH = str(folder)

    _before_reading(dataset.SpeakerClassifiDataset, use, lambda corpus: [corpus["file_path"], corpus["meta_data"]])


def _verification(dataset: ModuleType) -> None:
    def use(folder: Path) -> None:
        dataset.__file__ = str(folder / "dataset.py")  # s3prl puts them into .wav_lengths beside this

    _before_reading(dataset.SpeakerVerifi_train, use, lambda corpus: corpus["file_path"])


def _before_reading(
    dataset: Any, use: Callable[[Path], None], roots: Callable[[dict[str, Any]], list[str | Path]]
) -> None:
    read = dataset.__init__
    signature = inspect.signature(read)

    @functools.wraps(read)
    def read_with_own_cache(*args: Any, **kwargs: Any) -> None:
        use(folder_for(*roots(signature.bind(*args, **kwargs).arguments)))
        read(*args, **kwargs)

    dataset.__init__ = read_with_own_cache
