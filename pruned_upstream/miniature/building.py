"""Building corpora under a root: whole or not at all, and once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random

from ..errors import ConfigError, DataError, PrunedUpstreamError
from . import clip, phones, studio, voice
from .catalogue import CORPORA
from .plan import Corpus, Plan
from .studio import record

SCALES = ("demo", "tiny")
STAMP = ".miniature.json"  # in every corpus folder: who made it, from which recipe

Progress = Callable[[str, int, int], None]


def build(
    root: Path,
    tasks: Sequence[str] | None = None,
    *,
    scale: str = "demo",
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Make the corpora that `tasks` need (all by default), unless they are there already.

    Args:
        root: the folder that holds the corpora, in the layout of the package's docstring.
        tasks: keys of the ten tasks, and `pretrain` for the demo teacher's speech.
        scale: "demo", learnable, or "tiny", a few clips of everything for tests.
        seed: another seed draws other sentences, pitches and noises.
        workers: processes at a time; the result does not depend on it.
        progress: called with a corpus's folder name, clips recorded so far, clips in all.

    Returns:
        The folders, by name, as `CORPORA` lists them.

    Raises:
        ConfigError: an unknown task or scale.
        DataError: a folder of that name is there and was not made here.
        PrunedUpstreamError: espeak-ng is missing, a recording failed, or the folder cannot be written.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale {scale!r} is unknown; choose one of {', '.join(SCALES)}")
    known = {task for corpus in CORPORA for task in corpus.tasks}
    if unknown := sorted(set(tasks or ()) - known):
        raise ConfigError(f"no corpus serves {', '.join(unknown)}; the tasks are {', '.join(sorted(known))}")
    wanted = [corpus for corpus in CORPORA if tasks is None or set(corpus.tasks) & set(tasks)]
    folders: dict[str, Path] = {}
    for corpus in wanted:
        folders[corpus.folder] = Path(root) / corpus.folder
        try:
            _build_one(corpus, folders[corpus.folder], scale, seed, workers, progress)
        except OSError as error:
            raise PrunedUpstreamError(f"could not write {folders[corpus.folder]}: {error.strerror or error}") from error
    return folders


def _build_one(corpus: Corpus, folder: Path, scale: str, seed: int, workers: int, progress: Progress | None) -> None:
    """Record beside `folder` and rename: a folder that has the corpus's name is complete."""
    plan = corpus.plan(corpus.sizes[scale], Random(f"{corpus.folder}/{seed}"))
    recipe = _recipe(corpus, plan)
    if folder.exists() and _recipe_of(folder) == recipe:
        return
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    unfinished.mkdir(parents=True)
    done = 0

    def report(recorded: int) -> None:
        nonlocal done
        done += recorded
        if progress is not None:
            progress(corpus.folder, done, len(plan.clips))

    try:
        takes = record(plan.clips, unfinished, workers=workers, progress=report)
        plan.annotate(unfinished, takes)
        hours = sum(take.seconds for take in takes) / 3600
        stamp = {"recipe": recipe, "scale": scale, "seed": seed, "clips": len(takes), "hours": round(hours, 4)}
        (unfinished / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _recipe_of(folder: Path) -> str | None:
    """The recipe that a corpus was made from, None if its stamp cannot be read.

    Raises:
        DataError: there is no stamp, so it is not ours to replace.
    """
    stamp = folder / STAMP
    if not stamp.is_file():
        raise DataError(f"{folder} was not made here and is left alone; choose another root for the self-made corpora")
    try:
        return json.loads(stamp.read_text())["recipe"]
    except (json.JSONDecodeError, KeyError):
        return None


def _recipe(corpus: Corpus, plan: Plan) -> str:
    """The hash of what shapes the bytes: the clips, the code that voices and describes them, and the libraries."""
    digest = hashlib.sha256(json.dumps([recorded.to_dict() for recorded in plan.clips]).encode())
    for module in (voice, phones, clip, studio, sys.modules[corpus.plan.__module__]):
        digest.update(Path(str(module.__file__)).read_bytes())
    for library in ("espeakng-loader", "soxr", "soundfile", "numpy"):
        digest.update(f"{library} {_version(library)}".encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError as error:
        raise PrunedUpstreamError(
            f"the self-made corpora need {library}, which is not installed; pip install 'pruned_upstream[demo]'"
        ) from error
