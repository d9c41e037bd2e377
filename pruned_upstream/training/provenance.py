"""What it takes to repeat a run: versions, commit, command line and the resolved recipe, kept in its folder."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, DataError
from ..files import write_text
from ..parsing import read_json
from .recipe import recipe_yaml, save_recipe

PACKAGES = ("pruned_upstream", "torch", "numpy", "soundfile", "scipy", "omegaconf", "safetensors")
RECIPE_FILE = "recipe.yaml"
REPORT_FILE = "report.json"
LAUNCHES_FILE = "launches.json"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run computes with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """Commit of the checkout this code runs from, "+changes" where files differ from it; "" outside a checkout."""
    code = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(code.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", code.name)  # a package inside somebody else's repository has no commit
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def record_launch(
    folder: Path,
    recipe: object,
    *,
    done: int,
    world: int,
    inputs: Mapping[str, str] | None = None,
    amended: Mapping[str, tuple[Any, Any]] | None = None,
) -> None:
    """Add this launch to the run's folder: its resolved recipe, and a line about who computed what from which step.

    Args:
        done: steps that earlier launches did.
        world: processes of this launch.
        inputs: fingerprints of what it learns from.
        amended: keys of the recipe that change from here on, with their value before and after.

    Raises:
        ConfigError: the record of earlier launches was damaged.
        PrunedUpstreamError: the folder cannot be written.
    """
    launches = _launches(folder)
    launches.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(sys.argv),
            "commit": git_commit(),
            "versions": versions(),
            "processes": world,
            "threads": torch.get_num_threads(),
            "from_step": done,
            "inputs": dict(inputs or {}),
            "amended": {key: list(values) for key, values in (amended or {}).items()},
        }
    )
    save_recipe(recipe, folder / RECIPE_FILE)
    write_text(folder / LAUNCHES_FILE, json.dumps(launches, indent=1))


def record_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Add to the record of the last launch what it learns from, once that is known."""
    launches = _launches(folder)
    if launches:
        launches[-1]["inputs"] = dict(inputs)
    write_text(folder / LAUNCHES_FILE, json.dumps(launches, indent=1))


def inputs_of(folder: Path) -> dict[str, str]:
    """Fingerprints of what the run in a folder was made from, as its latest launch that knew them has them.

    Raises:
        ConfigError: the record of launches is damaged.
    """
    known = [launch.get("inputs") for launch in _launches(folder) if isinstance(launch, dict)]
    return next((inputs for inputs in reversed(known) if isinstance(inputs, dict) and inputs), {})


def _launches(folder: Path) -> list[Any]:
    path = folder / LAUNCHES_FILE
    try:
        launches = read_json(path) if path.exists() else []
        if not isinstance(launches, list):
            raise ValueError("it holds no list")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it, only the record of launches is lost") from error
    return launches


def read_report(folder: Path) -> dict[str, Any]:
    """What came out of the run in a folder.

    Raises:
        DataError: there is no report, or it is damaged.
    """
    path = folder / REPORT_FILE
    try:
        report = read_json(path)
        if not isinstance(report, dict):
            raise ValueError("it does not hold a JSON object")
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}: the run is not finished; its command goes on with it") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); the run's command writes it anew") from error
    return report


def provenance(recipe: object, amendments: Sequence[Mapping[str, Any]] = (), **more: str) -> dict[str, str]:
    """What a model file says of its making; `amendments` of the recipe on the way, if there were any."""
    amended = {"amendments": json.dumps(list(amendments))} if amendments else {}
    versioned = {"recipe": recipe_yaml(recipe), "commit": git_commit(), "versions": json.dumps(versions())}
    return versioned | amended | more
