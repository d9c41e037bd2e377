"""`pruned-upstream sweep`: one recipe with many values, side by side, and the trade-off between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError
from . import MISSED as MISSED_TARGET
from . import Amend, RecipeName, add, number_or_text, pairs, terminal

if TYPE_CHECKING:
    from ..sweep import Axis, Outcome, Scoring, Sweep

FAILED = 1


def add_to(app: typer.Typer) -> None:
    """Add `sweep` to the command line."""
    add(
        app,
        sweep,
        "sweep demo teacher=TEACHER data.train=FOLDER --sparsity 0.5,0.8 --seeds 0,1 run.folder=runs/sweep",
        "sweep runs/wavlm80/recipe.yaml --vary sparsity.price=multipliers,gentle run.folder=runs/prices",
    )


def sweep(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to it, for all points: run.folder=FOLDER", show_default=False)
    ] = None,
    sparsity: Annotated[str | None, typer.Option(help="--vary the method's sparsity, e.g. 0.5,0.67,0.8.")] = None,
    seeds: Annotated[str | None, typer.Option(help="--vary run.seed=..., e.g. 0,1,2.")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="section.key=a,b,c, repeatable: all combinations.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(help="prune, distill or parp.")] = "prune",
    superb: Annotated[str | None, typer.Option(help="Score each point on these tasks: ks,pr.")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the corpora's folders, for --superb.")] = Path("data"),
    short: Annotated[bool, typer.Option("--short", help="The tasks' short trainings; not official.")] = False,
    launcher: Annotated[str, typer.Option(help="slurm, local or debug: a job for each point.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Points side by side; 1, with slurm all.", show_default=False)
    ] = None,
    slurm: Annotated[list[str] | None, typer.Option(help="Parameter of submitit: slurm_partition=gpu.")] = None,
    amend: Amend = False,
) -> None:
    """Train every combination of some values, each in a folder of its own under run.folder, and compare them.

    The same command goes on after an interruption. It ends with

    - 1: a point failed, the others are finished
    - 3: none failed, but some missed their target by more than sparsity.tolerance
    """
    from ..jobs import Failure
    from ..readme import PAGE, README
    from ..sweep import plan, run_sweep
    from ..sweep.results import CSV_FILE, MISSED

    console = terminal()
    axes = _axes(method, sparsity, seeds, vary)
    planned = plan(recipe, overrides or [], axes, method=method, scoring=_scoring(superb, data, short), amend=amend)

    def say(name: str, failure: Failure | None) -> None:
        said = " finished" if failure is None else f" failed: {failure.reason}"
        console.print(Text.assemble((name, "bold"), said), soft_wrap=True)
        for line in failure.log_tail if failure else ():
            console.print(f"    {line}", soft_wrap=True)

    console.print(f"{len(planned.points)} points in {planned.folder}", soft_wrap=True)
    parameters = {key: number_or_text(value) for key, value in pairs(slurm, "--slurm").items()}
    at_once = jobs or (None if launcher == "slurm" else 1)
    outcome = run_sweep(planned, launcher, parameters, at_once=at_once, ended=say)
    if outcome.means:
        console.print(_table(planned, outcome))
    for path in (planned.folder / CSV_FILE, *outcome.pictures):
        console.print(f"wrote {path}", soft_wrap=True)
    page = planned.folder / PAGE
    console.print(f"look at {page}; {README} beside it says how to go on", soft_wrap=True)
    missed = [str(row["point"]) for row in outcome.rows if row.get(MISSED)]
    if missed:
        said = ("missed their target", "bold red"), f" (crosses in the plots): {', '.join(missed)}"
        console.print(Text.assemble(*said), soft_wrap=True)
    may_miss = all(getattr(getattr(p.recipe, "sparsity", None), "may_miss", True) for p in planned.points)
    raise typer.Exit(FAILED if outcome.failures else MISSED_TARGET if missed and not may_miss else 0)


def _axes(method: str, sparsity: str | None, seeds: str | None, vary: list[str] | None) -> list[Axis]:
    from ..sweep.grid import SEED, Axis
    from ..training.methods import method_named

    sparsity_key = method_named(method).sparsity
    if sparsity is not None and sparsity_key is None:
        raise ConfigError(f"the method {method} has no sparsity; leave --sparsity out, and --vary what it has")
    shorthands = {sparsity_key: sparsity, SEED: seeds}
    texts = [f"{key}={values}" for key, values in shorthands.items() if values is not None]
    return [Axis.parse(text) for text in (*(vary or ()), *texts)]


def _scoring(superb: str | None, data: Path, short: bool) -> Scoring | None:
    from ..superb.layout import Data
    from ..sweep import Scoring

    if superb is None:
        if short:
            raise ConfigError("--short is about the tasks of --superb; name them")
        return None
    return Scoring(tuple(superb.replace(" ", "").split(",")), Data(data), short)


def _table(sweep: Sweep, outcome: Outcome) -> Table:
    from ..sweep.results import means_table

    table = Table(title="means over seeds", title_justify="left")
    heading, rows = means_table(sweep, outcome.means)
    for column in heading:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
