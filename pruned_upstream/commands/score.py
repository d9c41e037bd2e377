"""`pruned-upstream score` and `pruned-upstream submission`: from run folders to tables, plots and predict.zip."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError
from . import add, terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..superb.report import Entry, Table


class Format(StrEnum):
    """How `score` writes its table."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    latex = "latex"


def add_to(app: typer.Typer) -> None:
    """Add `score` and `submission` to the command line."""
    add(
        app,
        score,
        "score runs/superb/wavlm80 --compare --teacher 'WavLM Base'",
        "score runs/superb/a runs/superb/b --format markdown --out tables",
    )
    add(app, submission, "submission runs/superb/wavlm80 --data corpora --name pruned")


def score(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with a results.yaml.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Beside DistilHuBERT, DPHuBERT, the paper's model and the teacher.")
    ] = False,
    teacher: Annotated[
        str, typer.Option(help="The teacher: one of the runs by its model's name, or a published model.")
    ] = "WavLM Base",
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.terminal,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables in every format and for the plots.")] = None,
) -> None:
    """superb_s, the leaderboard's Score and the comparison of one or more runs.

    A run with some of the tasks gets an early estimate of superb_s, with its interval and what it rests on.
    """
    from ..superb.early import early_estimates
    from ..superb.published import published_rows
    from ..superb.report import Entry, differences, overview, references, to_csv
    from ..superb.results import looks_like_fractions, read_results

    results = [read_results(run) for run in runs]
    for doubt in (doubt for result in results for doubt in looks_like_fractions(result)):
        typer.echo(f"is this right? {doubt}", err=True)
    measured = _told_apart([Entry.measured(result) for result in results], runs)
    others = references(teacher, measured) if compare else []
    shown = [*measured, *(entry for entry in others if entry not in measured)]
    tables = [overview(shown)]
    tables += [differences(entry, [other for other in others if other is not entry]) for entry in measured if others]
    estimates = early_estimates(measured)
    if output is Format.terminal:
        _print(tables, estimates)
    else:
        texts = {
            Format.markdown: _markdown(tables, estimates),
            Format.latex: "\n".join(table.latex() for table in tables),
            Format.csv: to_csv(shown),
        }
        typer.echo(texts[output], nl=False)
    if out is not None:
        names = {entry.name for entry in measured}
        context = [row for row in published_rows() if row.name not in names] if compare else []
        figures = _figures(shown, [*measured, *map(Entry.published, context)], teacher if compare else None)
        _write(out, tables, estimates, shown, figures)


def submission(
    run: Annotated[Path, typer.Argument(help="A run folder with a results.yaml.")],
    data: Annotated[
        Path | None, typer.Option(help="Data root: compare every prediction's name with the test sets' own lists.")
    ] = None,
    clone: Annotated[Path | None, typer.Option(help="A clone of s3prl, for the lists it has.")] = None,
    without: Annotated[str | None, typer.Option(help="Leave these tasks out, e.g. ks,sd.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for predict.zip and submission.yaml; the run's own.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name on the leaderboard.")] = None,
    method: Annotated[str, typer.Option(help="One word on how it was trained.")] = "",
    description: Annotated[str, typer.Option(help="A sentence or two.")] = "",
    url: Annotated[str, typer.Option(help="Where paper or model can be found.")] = "",
) -> None:
    """predict.zip for the SUPERB leaderboard, checked, with a sheet for its form.

    Tasks that were not run are named. Predictions that are there and cannot be used end it: nothing is written.
    """
    from ..superb.layout import Data
    from ..superb.results import read_results
    from ..superb.submission import gather_predictions, write_submission
    from ..superb.tasks import select

    results = read_results(run)
    if data is not None and not data.is_dir():
        raise DataError(f"there is no folder {data}; --data names the folder with the corpora's folders")
    corpora = None if data is None else Data(data, clone=clone)
    left_out = [task.name for task in select(without.replace(" ", "").split(","))] if without else []
    collected = gather_predictions(run, results, data=corpora, without=left_out)
    paths = write_submission(
        run if out is None else out,
        collected,
        results,
        name=name or results.model,
        method=method,
        description=description,
        url=url,
    )
    console = terminal()
    folders = sorted({target.partition("/")[0] for target in collected.files})
    console.print(f"{paths[0]}: {', '.join(folders)}", soft_wrap=True)
    console.print(f"{paths[1]}: what the leaderboard's form asks for", soft_wrap=True)
    for target, why in collected.missing.items():
        console.print(f"missing: {target}: {why}", style="yellow", soft_wrap=True)
    for remark in collected.remarks:
        console.print(remark, style="yellow", soft_wrap=True)


def _told_apart(entries: Sequence[Entry], runs: Sequence[Path]) -> list[Entry]:
    """Entries whose names are all different: two runs of one model are called after their folders too."""
    times = Counter(entry.name for entry in entries)
    return [
        entry if times[entry.name] == 1 else dataclasses.replace(entry, name=f"{entry.name} ({run})")
        for entry, run in zip(entries, runs, strict=True)
    ]


def _print(tables: Sequence[Table], estimates: Sequence[str]) -> None:
    console = terminal()
    for table in tables:
        console.print(table.terminal())
        for note in table.notes:
            console.print(note, style="dim")
    for said in estimates:
        console.print(said)


def _markdown(tables: Sequence[Table], estimates: Sequence[str]) -> str:
    early = "\n### Early estimates\n\n" + "".join(f"- {said}\n" for said in estimates) if estimates else ""
    return "\n".join(table.markdown() for table in tables) + early


def _figures(shown: Sequence[Entry], sized: Sequence[Entry], teacher: str | None) -> dict[str, Figure]:
    """File name -> figure: the tasks of the models that are shown, and superb_s against the size of more."""
    from ..superb.plots import score_against_size, task_profile

    return {
        "superb_s_parameters": score_against_size(sized),
        "superb_s_macs": score_against_size(sized, macs=True),
        "tasks": task_profile(shown, teacher),
    }


def _write(
    folder: Path, tables: Sequence[Table], estimates: Sequence[str], shown: Sequence[Entry], figures: dict[str, Figure]
) -> None:
    from ..description.figures import save_figure
    from ..files import atomic_files, write_text
    from ..superb.report import to_csv

    texts = {
        "scores.md": _markdown(tables, estimates),
        "scores.tex": "\n".join(table.latex() for table in tables),
        "scores.csv": to_csv(shown),
    }
    with atomic_files(folder) as unfinished:
        for name, text in texts.items():
            write_text(unfinished / name, text)
        for name, figure in figures.items():
            for suffix in ("png", "pdf"):
                save_figure(figure, unfinished / f"{name}.{suffix}")
