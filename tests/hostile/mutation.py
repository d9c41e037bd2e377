"""How a valid file is spoiled: bytes, trees of JSON and YAML, and trees with tensors. All follows from a seed."""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch


def _nested(depth: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(depth):
        tree = [tree]
    return tree


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 513, 1 << 17, 10**6, 10**9, 1 << 63, 10**30, 0.5, -0.0, 1e-320, 1e308),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "a",
        "a" * 3000,
        "0",
        "1e9",
        "nan",
        "../../etc/passwd",
        "/dev/zero",
    ),
    *("\x1b[31mred", "[bold]markup[/bold]", "[/nope]", "${nope}", "${", "???", "\ud800", "\u2028", "\0", "é" * 200),
    *([], {}, [None], [[]], {"a": {}}, [1, "a", None], {"": 1}, [10**9] * 3, _nested(40), _nested(60)),
)


def spoiled_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few of: a byte changed, a stretch removed, doubled, zeroed or replaced, the end cut."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        if not out:
            return b""
        # half of the attacks go for the beginning, where headers are
        at = rng.randrange(min(len(out), 4000)) if rng.random() < 0.5 else rng.randrange(len(out))
        size = rng.choice((1, 1, 2, 4, 8, 64, 1000))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + size]
        elif kind == 2:
            out[at:at] = out[at : at + size]
        elif kind == 3:
            out[at : at + size] = bytes(min(size, len(out) - at))
        elif kind == 4:
            out[at : at + size] = rng.randbytes(min(size, len(out) - at))
        else:
            del out[at:]
    return bytes(out)


def spoiled_tree(tree: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """A deep copy with a few nodes replaced, removed, renamed, doubled, or put in each other's place."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(values)
        holder, key = rng.choice(places)
        inside = vars(holder) if isinstance(holder, argparse.Namespace) else holder
        kind = rng.randrange(8)
        if kind == 0:
            del inside[key]
        elif kind == 1 and isinstance(inside, dict):
            inside[rng.choice(("", "x", f"{key}.", f"{key}2", "data.train", "base"))] = inside.pop(key)
        elif kind == 2 and isinstance(inside, list):
            inside.extend(copy.deepcopy(inside[:1000]))
        elif kind == 3:
            other, at = rng.choice(places)
            inside[key] = copy.deepcopy((vars(other) if isinstance(other, argparse.Namespace) else other)[at])
        elif kind == 4 and type(inside[key]) in (int, float):
            inside[key] = rng.choice((-inside[key], inside[key] * 1000, inside[key] + 1, float(inside[key]), 0))
        else:
            inside[key] = copy.deepcopy(rng.choice(values))
    return tree


def spoiled_tensors(tree: Any, rng: random.Random) -> Any:
    """As `spoiled_tree`; now and then a tensor becomes one that no encoder has."""
    if rng.random() < 0.5:
        return spoiled_tree(tree, rng)
    tree = copy.deepcopy(tree)
    places = [(holder, key) for holder, key in _places(tree) if isinstance(_at(holder, key), torch.Tensor)]
    for holder, key in rng.sample(places, min(len(places), rng.choice((1, 1, 2, 5)))):
        (vars(holder) if isinstance(holder, argparse.Namespace) else holder)[key] = rng.choice(TENSORS)(
            _at(holder, key)
        )
    return tree


TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t.float() * float("nan"),
    lambda t: t.float() + float("inf"),
    lambda t: t.double() * 1e300,
    lambda t: t.long(),
    lambda t: t.bool(),
    lambda t: t.to(torch.complex64),
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t.float().to_sparse(),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t: t.to("meta"),
    lambda t: t.unsqueeze(0),
    lambda t: t.flatten(),
    lambda t: t[:0],
    lambda t: t.reshape(-1)[:1].reshape(()) if t.numel() else t,
    lambda t: torch.zeros(1).expand(10**6, 10**5),
    lambda t: torch.zeros(1).expand(t.shape),
    lambda t: t.t() if t.dim() == 2 else t,
    lambda t: t.tolist(),
    lambda t: {"weight": t},
    lambda t: torch.nn.Parameter(t.float()),
)


def cyclic(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A deep copy that contains itself somewhere, or a list that doubles with each level."""
    tree = copy.deepcopy(tree)
    holders = [holder for holder, _ in _places(tree) if isinstance(holder, dict)]
    holder = rng.choice(holders)
    if rng.random() < 0.5:
        holder[rng.choice(list(holder))] = tree
    else:
        bomb: list[Any] = []
        for _ in range(40):
            bomb = [bomb, bomb]
        holder[rng.choice(list(holder))] = bomb
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder with each of its keys; containers only."""
    inside = vars(tree) if isinstance(tree, argparse.Namespace) else tree
    keys = list(inside) if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(inside[key])


def _at(holder: Any, key: Any) -> Any:
    return vars(holder)[key] if isinstance(holder, argparse.Namespace) else holder[key]
