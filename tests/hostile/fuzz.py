"""Spoiled files in numbers, in equal shares for every format."""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

from .watched import Attack, Tally, watch

TRIES = 20  # a spoiled tree that cannot be written down is spoiled otherwise


def fuzz(files: int, folder: Path, *, seed: int = 0, say: Callable[[str], None] = lambda line: None) -> Tally:
    """Spoil and read so many files of every format together; `say` hears a line about each format."""
    started = time.monotonic()
    total = Tally()
    for name, tally in watch(files, lambda: _in_turn(folder, seed)).items():
        counts = ", ".join(f"{tally.counts[kind]} {kind}" for kind in ("refused", "read", "escaped"))
        say(f"{name}: {counts}; slowest {tally.slowest:.2f} s")
        for escape in tally.escapes[:5]:
            say(f"  {escape}")
        tally.escapes = [f"{name}, {escape}" for escape in tally.escapes]
        total += tally
    say(f"in {time.monotonic() - started:.0f} s")
    return total


def _in_turn(folder: Path, seed: int) -> Attack:
    """File number n is of format n modulo their number."""
    import torch
    import yaml

    from .formats import formats

    torch.set_num_threads(1)
    known = list(formats(folder / "valid"))
    place = folder / "spoiled"
    place.mkdir(parents=True, exist_ok=True)

    def attack(number: int) -> tuple[str, Callable[[], object]]:
        format = known[number % len(known)]
        for attempt in itertools.count():
            try:
                return format.name, format.attack(random.Random(f"{seed} {format.name} {number} {attempt}"), place)
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
                struct.error,
                yaml.YAMLError,
            ):
                if attempt == TRIES:
                    raise
        raise AssertionError

    return attack
