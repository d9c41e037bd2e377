"""What a corpus is made from: the clips to record and the files to write about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .clip import Clip, Cue, Take
from .voice import Line


@dataclass(frozen=True)
class Plan:
    """`annotate(folder, takes)` writes transcripts, lists and tables once every clip is recorded, in their order."""

    clips: list[Clip]
    annotate: Callable[[Path, Sequence[Take]], None]


@dataclass(frozen=True)
class Corpus:
    """One folder under the root, the tasks it serves, its sizes at each scale, and how it is planned.

    `plan(sizes, rng)` is a pure function of its arguments.
    """

    folder: str
    tasks: tuple[str, ...]
    sizes: dict[str, Any]
    plan: Callable[[Any, Random], Plan]


def line_clip(path: str, line: Line, rng: Random, **settings: Any) -> Clip:
    """One line in a clip of its own, on a quiet bed of noise that differs from clip to clip."""
    defaults: dict[str, Any] = {
        "cues": (Cue(line, gap=rng.uniform(0.1, 0.3)),),
        "tail": rng.uniform(0.1, 0.3),
        "snr": rng.uniform(25.0, 45.0),
        "colour": rng.uniform(0.0, 1.5),
        "seed": rng.getrandbits(32),
    }
    return Clip(path, **{**defaults, **settings})
