"""`pruned-upstream demo`: the whole path on self-made data; and `corpora`, which makes only those."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from . import add, log_to_terminal, terminal


def add_to(app: typer.Typer) -> None:
    """Add `demo` and `corpora` to the command line."""
    add(app, demo, "demo --short", "demo --tasks ks,pr --out runs/demo")
    add(app, corpora, "corpora data --tasks ks,pr --tiny")


def require_miniature() -> None:
    """Raises ConfigError where the package was installed from a wheel."""
    if importlib.util.find_spec("pruned_upstream.miniature") is None:
        raise ConfigError(
            "the demo's corpora and teacher are no part of an installed package; get the source, and there `make demo`"
        )


def demo(
    out: Annotated[Path, typer.Option(help="Folder for corpora, models, results and pictures.")] = Path("runs/demo"),
    short: Annotated[bool, typer.Option("--short", help="Tiny corpora, a handful of steps, three tasks.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Measure the teacher on the tasks too.")] = False,
    tasks: Annotated[str | None, typer.Option(help="Some of the ten tasks: ks,pr,...")] = None,
    recipe: Annotated[str, typer.Option(help="Of the pruning: demo (67 %) or demo_80.")] = "demo",
    jobs: Annotated[int, typer.Option(help="Runs of s3prl side by side.")] = 2,
) -> None:
    """Teacher, pruning, compact upstream, s3prl's tasks, table and pictures: on two cores in minutes."""
    require_miniature()
    from ..miniature.demo import DemoSettings, run_demo, table
    from ..training.provenance import read_report
    from .prune import report_table
    from .superb import Progress

    console = terminal()
    log_to_terminal(console)
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[{time.monotonic() - started:5.0f} s] {line}", style="bold", soft_wrap=True)

    settings = DemoSettings(
        out, short=short, teacher=full, recipe=recipe, tasks=tuple(tasks.split(",")) if tasks else None, jobs=jobs
    )
    result = run_demo(settings, say, Progress)
    say("done")
    console.print(report_table(read_report(result.model.parent)))
    shown = table(result.results)
    console.print(shown.terminal())
    for picture in result.pictures:
        console.print(f"picture: {picture}", soft_wrap=True)
    console.print(f"upstream: run_downstream.py -u pruned_wavlm -k {result.model}", soft_wrap=True)
    for model, failures in result.failures.items():
        for task, failure in failures.items():
            console.print(f"failed: {model} on {task}: {failure.reason}", style="red", soft_wrap=True)
            for line in failure.log_tail:
                console.print(f"  {line}", soft_wrap=True)
    if any(result.failures.values()):
        raise typer.Exit(1)


def corpora(
    root: Annotated[Path, typer.Argument(help="Folder that takes the corpora.")],
    tasks: Annotated[str | None, typer.Option(help="Only for these: ks,pr,...; pretrain is speech alone.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="A few clips of everything.")] = False,
) -> None:
    """Make the self-made miniature corpora, in the layouts of the official ones."""
    require_miniature()
    from ..miniature.building import build

    folders = build(root, tasks.split(",") if tasks else None, scale="tiny" if tiny else "demo")
    for name, folder in folders.items():
        terminal().print(f"{name}: {folder}", soft_wrap=True)
