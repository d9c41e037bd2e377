"""`pruned-upstream decode`: what a finished run of PARP recognises, with other settings than it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import add, log_to_terminal, terminal


def add_to(app: typer.Typer) -> None:
    """Add `decode` to the command line."""
    add(app, decode, "decode runs/parp data.test=LibriSpeech/test-clean decoding.beam=50")


def decode(
    run: Annotated[Path, typer.Argument(help="Folder of a run of parp that has trained.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What to do otherwise: decoding.beam=100 data.test=FOLDER", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the folder under RUN/evaluations; after the changes.", show_default=False)
    ] = None,
) -> None:
    """Decode test sources again: with another beam, language model or test set. Nothing is trained.

    Without changes and name, the results are those of the run itself: they go into its report.
    """
    from ..errors import ConfigError
    from ..files import locked
    from ..parsing import require
    from ..training.parp import ParpRecipe
    from ..training.processes import device_named
    from ..training.provenance import RECIPE_FILE
    from ..training.recipe import Kind, flat_keys, key_kinds, load_recipe
    from ..training.recognition import EVALUATIONS_FOLDER, HYPOTHESES_FOLDER, decode_run, evaluation_name
    from .parp import tests_table

    saved = run / RECIPE_FILE
    if not saved.is_file():
        raise ConfigError(f"{run} is not the folder of a training: it holds no {RECIPE_FILE}")
    before, recipe = (load_recipe(saved, ParpRecipe, changes) for changes in ([], overrides or []))
    kinds, was = key_kinds(ParpRecipe), flat_keys(before)
    for key, value in flat_keys(recipe).items():
        if value != was[key] and kinds[key] not in (Kind.EVALUATION, Kind.LAUNCH):
            raise ConfigError(f"{key} is what the run was trained with; decode changes data.test and decoding alone")
    if not recipe.data.test:
        raise ConfigError("the recipe names nothing to decode; add data.test=FOLDER")
    log_to_terminal()
    if name is None and recipe != before:
        name = evaluation_name(overrides or [])
    of_a_folder = name is None or (name not in ("", "..") and Path(name).name == name)
    require(of_a_folder, "--name", name, "be the name of a folder, without a path")
    with locked(run):
        tests = decode_run(run, recipe, device_named(recipe.run.device), name=name)
    console = terminal()
    console.print(tests_table(tests))
    where = run / HYPOTHESES_FOLDER if name is None else run / EVALUATIONS_FOLDER / name
    console.print(f"wrote {where}", soft_wrap=True)
