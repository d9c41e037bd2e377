"""Reading pickled checkpoints without running anything in them.

torch's safe unpickler builds tensors and plain containers. Published files hold other objects besides: argparse's
Namespace, fairseq's Dictionary, omegaconf's containers, counters of a trainer. Their classes are never imported. Each
is replaced by an `Inert` one of the same name that keeps what the file says and does nothing, for the time of one
reading. A file that names anything else is refused.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import pickletools
import struct
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which torch still writes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ...errors import CheckpointError, ConfigError
from ...parsing import MALFORMED, MAX_DEPTH, printable
from ..header import check_readable
from ..safe_loading import allowed_by_torch

# packages whose classes occur in published checkpoints; s3prl's old ones hold a scheduler of its `optimizers`, and
# omegaconf notes the type of each value
INERT_PACKAGES = ("fairseq", "omegaconf", "numpy", "s3prl", "optimizers", "typing", "pathlib")
INERT_NAMES = ("collections.defaultdict", "functools.partial", "_codecs.encode", "_operator.getitem") + tuple(
    f"builtins.{name}" for name in ("Ellipsis", "bool", "dict", "float", "int", "list", "str", "tuple")
)
# plain data, real ones of which are built; of torch's own names its unpickler knows which are safe
REAL = ("argparse.Namespace", "builtins.set", "builtins.bytearray", "builtins.complex")
JUDGED_BY_TORCH = ("torch", "collections")
MAX_OPTIONS = 100_000  # values, where published files have hundreds
REASON = 200  # characters of a foreign message
LEGACY_PICKLES = 4  # before torch 1.6 a file was several pickles in a row: magic number, protocol, system, object


class Inert:
    """An object of a foreign class: the arguments it was to be made of, and its attributes."""

    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Inert:
        """Keep the arguments, and run nothing."""
        self = object.__new__(cls)
        self.arguments = arguments
        return self

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def read_pickle(path: Path) -> Any:
    """What a torch checkpoint holds, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or names a class or function that is not one of
            the above; it is named, and nothing was run.
    """
    check_readable(path)
    try:
        names = _named(path)
        strange = sorted(name for name in names if not (_is_inert(name) or _is_known(name)))
        if strange:
            raise CheckpointError(
                f"{path} was not opened: it is a pickle that names {', '.join(strange[:4])}, which no published "
                "checkpoint does and which could run code"
            )
        inert = [_inert_class(name) for name in sorted(names) if _is_inert(name)]
        with open(path, "rb") as file, allowed_by_torch(argparse.Namespace, *inert):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not opened: torch's safe reader refuses it, since it is truncated or could run code"
        ) from error
    except (*MALFORMED, EOFError, AssertionError, OSError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        reason = printable(str(error)).partition("\n")[0][:REASON] or type(error).__name__
        raise CheckpointError(
            f"{path} is no checkpoint of torch, or truncated or damaged ({reason}); download it again"
        ) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{path} asks for more memory than there is; it is damaged, or too large for this machine"
        ) from error


def plain(tree: Any) -> Any:
    """Options as plain dictionaries and lists, also where a Namespace or omegaconf's containers held them.

    Raises:
        ConfigError: they contain themselves, or stand for more values than options are.
    """
    return _plain(tree, 0, itertools.count())


def _plain(tree: Any, depth: int, counted: Iterator[int]) -> Any:
    if depth > MAX_DEPTH or next(counted) > MAX_OPTIONS:
        raise ConfigError(
            f"the options contain themselves, are nested more than {MAX_DEPTH} deep, or are more than {MAX_OPTIONS:,}"
        )
    if isinstance(tree, argparse.Namespace):
        tree = vars(tree)
    elif isinstance(tree, Inert) and "_content" in vars(tree):  # omegaconf's DictConfig and ListConfig
        return _plain(vars(tree)["_content"], depth + 1, counted)
    elif isinstance(tree, Inert) and "_val" in vars(tree):  # omegaconf's nodes
        return _plain(vars(tree)["_val"], depth + 1, counted)
    if isinstance(tree, dict):
        return {key: _plain(value, depth + 1, counted) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_plain(value, depth + 1, counted) for value in tree)
    return tree


def _named(path: Path) -> set[str]:
    """Every class and function that the file names, as "module.name"; the pickle is read for it, not run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
            members = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return {name for member in members for name in _globals(archive.read(member))}
    with open(path, "rb") as file:
        return {name for _ in range(LEGACY_PICKLES) for name in _globals(file)}


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive that would grow when it is read; torch's own are not compressed."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise CheckpointError(f"{path} is a compressed archive, which no checkpoint of torch is; download it again")


def _globals(stream: bytes | BinaryIO) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        # torch's reader knows no other way to name something
        if opcode.name == "GLOBAL" and isinstance(argument, str):
            module, _, name = argument.partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"


def _is_known(name: str) -> bool:
    return name.partition(".")[0] in JUDGED_BY_TORCH or name in REAL


def _is_inert(name: str) -> bool:
    return name.partition(".")[0] in INERT_PACKAGES or name in INERT_NAMES


def _inert_class(name: str) -> type[Inert]:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (Inert,), {"__module__": module, "__qualname__": qualified})
