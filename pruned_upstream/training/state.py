"""The training state: what a killed run needs to go on as if nothing had happened.

Noise is not part of it: whatever is random in a step follows from (seed, step), see `data.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..files import atomic_write

FORMAT = "pruned_upstream training state"
VERSION = 1

# keys that may differ between the launches of one run: none of them changes what is computed
FREE_KEYS = {"run.folder", "run.device", "run.log_every", "run.checkpoint_every", "data.workers", "data.train"}

NAMED = 5  # differing keys in a message; a run of another method differs in nearly all


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; the file at `path` is the old one until the new one is complete.

    Raises:
        PrunedUpstreamError: the disk is full or the folder cannot be written.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save({"format": FORMAT, "version": VERSION, **state}, file)


def load_state(path: Path, *, device: torch.device) -> dict[str, Any] | None:
    """What `save_state` wrote, or None where nothing was written yet.

    Raises:
        CheckpointError: the file is damaged, of another kind or of another version.
    """
    if not path.exists():
        return None
    advice = f"name another run.folder, or remove {path} to start over"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"the training state {path} cannot be read: it is truncated, foreign, or holds what torch's safe loader "
            f"refuses; {advice}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training state of this program; {advice}")
    if state["version"] != VERSION:
        raise CheckpointError(f"{path} has version {state['version']}, this program reads {VERSION}; {advice}")
    return state


def check_same_run(
    path: Path, saved: Mapping[str, Any], current: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse to go on with another recipe than the one that was begun.

    Args:
        path: of the state.
        saved, current: recipes as {"section.key": value}.
        defaults: of keys that the saved recipe lacks, since it is older than they are.

    Raises:
        ConfigError: they differ in a key that changes what is computed; the first such keys are named.
    """
    saved = {**(defaults or {}), **saved}
    keys = (saved.keys() | current.keys()) - FREE_KEYS
    differing = [
        f"{key} ({saved.get(key)!r} there, {current.get(key)!r} here)"
        for key in sorted(keys)
        if saved.get(key) != current.get(key)
    ]
    if differing:
        named, others = ", ".join(differing[:NAMED]), len(differing) - NAMED
        raise ConfigError(
            f"{path.parent} holds a run of another recipe: {named}{f' and {others} more' if others > 0 else ''}; "
            "name another run.folder, or repeat the command that began it"
        )
