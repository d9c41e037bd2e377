"""Reading pickled checkpoints without running anything in them.

torch's safe unpickler builds tensors and plain containers. Published files hold other objects besides: argparse's
Namespace, fairseq's Dictionary, omegaconf's containers, counters of a trainer. Their classes are never imported. Each
is replaced by an `Inert` one of the same name that keeps what the file says and does nothing, for the time of one
reading. A file that names anything else is refused.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which torch still writes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ...errors import CheckpointError
from ..checkpoint import check_readable

# packages whose classes occur in published checkpoints; s3prl's old ones hold a scheduler of its `optimizers`, and
# omegaconf notes the type of each value
INERT_PACKAGES = ("fairseq", "omegaconf", "numpy", "s3prl", "optimizers", "typing", "pathlib")
INERT_NAMES = ("collections.defaultdict", "functools.partial", "_codecs.encode", "_operator.getitem") + tuple(
    f"builtins.{name}" for name in ("Ellipsis", "bool", "dict", "float", "int", "list", "str", "tuple")
)
# plain data, real ones of which are built; of torch's own names its unpickler knows which are safe
REAL = ("argparse.Namespace", "builtins.set", "builtins.bytearray", "builtins.complex")
JUDGED_BY_TORCH = ("torch", "collections")
LEGACY_PICKLES = 4  # before torch 1.6 a file was several pickles in a row: magic number, protocol, system, object


class Inert:
    """An object of a foreign class: the arguments it was to be made of, and its attributes."""

    def __new__(cls, *arguments: Any) -> Inert:
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
        # at its end torch forgets all that it was given, also what was allowed before
        known = torch.serialization.get_safe_globals()
        allowed = [cls for cls in (argparse.Namespace, *inert) if cls not in known]
        with open(path, "rb") as file, torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not opened: torch's safe reader refuses it, since it is truncated or could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of torch, or truncated or damaged ({error}); download it again"
        ) from error


def plain(tree: Any) -> Any:
    """Options as plain dictionaries and lists, also where a Namespace or omegaconf's containers held them."""
    if isinstance(tree, argparse.Namespace):
        tree = vars(tree)
    elif isinstance(tree, Inert) and "_content" in vars(tree):  # omegaconf's DictConfig and ListConfig
        tree = vars(tree)["_content"]
    elif isinstance(tree, Inert) and "_val" in vars(tree):  # omegaconf's nodes
        tree = vars(tree)["_val"]
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(plain(value) for value in tree)
    return tree


def _named(path: Path) -> set[str]:
    """Every class and function that the file names, as "module.name"; the pickle is read for it, not run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return {name for member in members for name in _globals(archive.read(member))}
    with open(path, "rb") as file:
        return {name for _ in range(LEGACY_PICKLES) for name in _globals(file)}


def _globals(stream: bytes | BinaryIO) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":  # torch's reader knows no other way to name something
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
