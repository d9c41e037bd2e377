"""Recipes and downstream configs by bare name, in a checkout as after `pip install`.

In the repository they lie at the top level, where a reader looks for them; a wheel carries them inside the package.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from .errors import ConfigError

PACKAGE = Path(__file__).parent
RECIPES = "recipes"
DOWNSTREAM_CONFIGS = "downstream_configs"
LONGEST_SHOWN = 300  # characters


def recipe_path(name: str | Path) -> Path:
    """The recipe `name`: a path to a yaml file, or the bare name of a shipped one.

    Raises:
        ConfigError: there is neither.
    """
    return _path(name, RECIPES, "recipe")


def downstream_config_path(name: str | Path) -> Path:
    """The s3prl downstream config `name`, as `recipe_path`."""
    return _path(name, DOWNSTREAM_CONFIGS, "downstream config")


def names(kind: str) -> list[str]:
    """Bare names of the shipped files of one kind, `RECIPES` or `DOWNSTREAM_CONFIGS`."""
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def _folder(kind: str) -> Path:
    installed = PACKAGE / kind
    return installed if installed.is_dir() else PACKAGE.parent / kind


def _path(name: str | Path, kind: str, what: str) -> Path:
    if os.path.isfile(name):  # which says no, and raises nothing, where the name itself is impossible
        return Path(name)
    bare = str(name).removesuffix(".yaml")
    known = names(kind)
    if bare in known:
        return _folder(kind) / f"{bare}.yaml"
    close = difflib.get_close_matches(bare, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known) or 'none'}"
    raise ConfigError(f"there is no {what} {str(name)[:LONGEST_SHOWN]}, neither as a file nor by that name; {hint}")
