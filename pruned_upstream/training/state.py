"""The training state: what a killed run needs to go on as if nothing had happened.

Noise is not part of it: whatever is random in a step follows from (seed, step), see `data.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, DataError
from ..files import atomic_write
from ..parsing import MALFORMED, plain_file, shown
from .recipe import Kind

STATE_FILE = "state.pt"
FORMAT = "pruned_upstream training state"
VERSION = 2

COMPARED = (Kind.TRAINING, Kind.AMENDABLE)
CUT_BEFORE = "first-stage weights"  # an input that the run itself makes
NAMED = 5  # differing keys in a message; a run of another method differs in nearly all
KINDS = {  # of what a state holds, beside the values of its objective
    "step": int,
    "recipe": dict,
    "inputs": dict,
    "metrics_bytes": int,
    "unreported": dict,
    "dropped": dict,
    "amendments": list,
    "objective": dict,
    "optimiser": dict,
}


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
        state = torch.load(plain_file(path), map_location=device, weights_only=True)
    except (OSError, EOFError, pickle.UnpicklingError, *MALFORMED) as error:
        raise CheckpointError(
            f"the training state {path} cannot be read: it is truncated, foreign, or holds what torch's safe loader "
            f"refuses; {advice}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training state of this program; {advice}")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {shown(state.get('version'))}, this program reads {VERSION}; {advice}"
        )
    state.setdefault("unreported", {})  # which older runs do not have
    for name, kind in KINDS.items():
        if name not in state:
            raise CheckpointError(f"{path} is damaged: it has no {name}; {advice}")
        if not (isinstance(state[name], kind) and (kind is not int or state[name] >= 0)):
            raise CheckpointError(f"{path} is damaged: its {name} is {shown(state[name])}; {advice}")
    return state


def check_same_run(
    folder: Path,
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    *,
    defaults: Mapping[str, Any] | None = None,
    amend: bool = False,
) -> dict[str, tuple[Any, Any]]:
    """What goes on otherwise than it was begun, if it may.

    Args:
        folder: of the run.
        saved, current: recipes as {"section.key": value}.
        kinds: of the recipe's keys; a key that is not among them is compared as one of training.
        defaults: of keys that the saved recipe lacks, since it is older than they are.
        amend: whether the user asked for keys of the kind AMENDABLE to change.

    Returns:
        The amended keys, each with its value before and after.

    Raises:
        ConfigError: a key differs that may not, or not without being asked; the first such keys are named.
    """
    saved = {**(defaults or {}), **saved}
    compared = [key for key in saved.keys() | current.keys() if kinds.get(key, Kind.TRAINING) in COMPARED]
    differing = [key for key in sorted(compared) if saved.get(key) != current.get(key)]
    fixed = [key for key in differing if kinds.get(key, Kind.TRAINING) is Kind.TRAINING]
    if fixed or (differing and not amend):
        blamed = fixed or differing
        phrases = [f"{key} ({saved.get(key)!r} there, {current.get(key)!r} here)" for key in blamed]
        named, others = ", ".join(phrases[:NAMED]), len(phrases) - NAMED
        way_on = "" if fixed else "add --amend to go on with the new values from where the run stands, "
        raise ConfigError(
            f"{folder} holds a run of another recipe: {named}{f' and {others} more' if others > 0 else ''}; "
            f"{way_on}name another run.folder, or repeat the command that began it"
        )
    return {key: (saved.get(key), current.get(key)) for key in differing}


def check_same_inputs(folder: Path, saved: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Refuse to go on with other files than the run was begun with, wherever they lie now.

    Args:
        saved, current: fingerprints of contents, by what they are of.

    Raises:
        DataError: they differ; what differs is named.
    """
    differing = [name for name in sorted(saved.keys() | current.keys()) if saved.get(name) != current.get(name)]
    if differing:
        if differing == [CUT_BEFORE]:
            raise DataError(
                f"{folder} holds a run on other {CUT_BEFORE} than what is cut now; remove {folder} to go on from that, "
                "repeat the command that it was begun with, or name another run.folder"
            )
        raise DataError(
            f"{folder} holds a run on other {' and other '.join(differing)} than the recipe names now: the contents "
            "differ, not the paths; restore them, or name another run.folder"
        )
