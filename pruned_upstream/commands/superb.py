"""`pruned-upstream superb`: the ten tasks of SUPERB for one upstream, with one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.progress
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError, PrunedUpstreamError
from ..s3prl_plugin.registry import ANY_FAMILY
from ..superb.observer import Observer
from . import add, number_or_text, pairs, terminal

if TYPE_CHECKING:
    from ..jobs import Failure
    from ..superb.layout import Data
    from ..superb.protocol import Stage
    from ..superb.results import RunResults
    from ..superb.running import Report, Settings
    from ..superb.tasks import Task

LEARNING_RATES = (1e-2, 1e-3, 1e-4, 1e-5)
FAILED, USAGE_ERROR = 1, 2


def add_to(app: typer.Typer) -> None:
    """Add `superb` to the command line."""
    add(
        app,
        superb,
        "superb runs/wavlm80/compact.safetensors --data corpora --check",
        "superb runs/wavlm80/compact.safetensors --data corpora --tasks ks,pr --jobs 2",
        "superb --upstream fbank --data corpora --short",
    )


def superb(
    file: Annotated[Path | None, typer.Argument(help="Model or ONNX file, or what --upstream takes behind -k.")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the corpora's folders.")] = Path("data"),
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", "-k", help="The same as FILE.")] = None,
    upstream: Annotated[str | None, typer.Option("--upstream", "-u", help="Any upstream of s3prl, e.g. fbank.")] = None,
    model_config: Annotated[Path | None, typer.Option("--model-config", "-g", help="As s3prl's -g.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in tables.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/superb/NAME. Existing runs go on.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these, e.g. ks,pr.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only pr and sid, which tell most for least; then an early estimate.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing: files, model, device.")] = False,
    corpus: Annotated[list[str] | None, typer.Option(help="A corpus elsewhere: VoxCeleb1=/path.")] = None,
    s3prl_clone: Annotated[
        Path | None, typer.Option(help="Clone of s3prl: its lists go first; PR's and SF's readers are ours.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; the result is then not official.")] = None,
    short: Annotated[bool, typer.Option("--short", help="The demo's short trainings; not official.")] = False,
    lr: Annotated[list[str] | None, typer.Option(help="Learning rate of a task: ks=1e-3.")] = None,
    lr_search: Annotated[
        bool, typer.Option("--lr-search", help=f"Choose on dev among {', '.join(f'{lr:g}' for lr in LEARNING_RATES)}.")
    ] = False,
    language_model: Annotated[Path | None, typer.Option(help="KenLM file for a second WER of ASR.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="Letter lexicon that belongs to --language-model.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default the GPU if there is one.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs of s3prl side by side.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per run.")] = None,
    loader_workers: Annotated[int | None, typer.Option(min=0, help="Data loading processes per run.")] = None,
    seed: Annotated[int, typer.Option(help="s3prl's seed.")] = 1337,
    launcher: Annotated[str | None, typer.Option(help="slurm, local or debug: a job for each task.")] = None,
    slurm: Annotated[list[str] | None, typer.Option(help="Parameter of submitit: slurm_partition=gpu.")] = None,
) -> None:
    """Train and test the ten SUPERB tasks on an upstream, with s3prl's own code and the official protocol.

    A run that was interrupted goes on with the same command. Exit code 1: a task failed, the others are finished.
    """
    from ..model.hub import local_file, plain_name
    from ..report.scores_page import write_scores_page
    from ..superb.launching import launch
    from ..superb.layout import Data
    from ..superb.running import Settings, run
    from ..superb.tasks import select

    console = terminal()
    corpora = Data(data, _paths(corpus, "--corpus"), s3prl_clone)
    chosen = _chosen(tasks, quick)
    checkpoint = checkpoint or file
    lacking = _show_inventories(console, corpora, select(chosen)) if check else 0
    if checkpoint is None and upstream is None:
        if check:
            raise typer.Exit(FAILED if lacking else 0)
        raise ConfigError("say what to measure: a compact model's file, or --upstream NAME")
    if (language_model is None) != (lexicon is None):
        raise ConfigError("--language-model and --lexicon go together")
    upstream = upstream or ANY_FAMILY
    name = name or (plain_name(checkpoint) if checkpoint is not None else upstream)
    checkpoint = local_file(checkpoint) if checkpoint is not None else None
    settings = Settings(
        folder=output or Path("runs/superb") / name,
        upstream=upstream,
        data=corpora,
        checkpoint=checkpoint,
        model_config=model_config,
        model=name,
        tasks=chosen,
        steps=steps,
        short=short,
        learning_rates=_rates(lr, [task for task in select(chosen) if task.dev is not None] if lr_search else []),
        language_model=(language_model, lexicon) if language_model is not None and lexicon is not None else None,
        device=device,
        jobs=jobs,
        threads=threads,
        loader_workers=loader_workers,
        seed=seed,
    )
    if check:
        ready = _show_upstream(console, settings)
        raise typer.Exit(USAGE_ERROR if not ready else FAILED if lacking else 0)
    if launcher is not None:
        report = launch(
            settings, launcher, {key: number_or_text(value) for key, value in pairs(slurm, "--slurm").items()}
        )
    else:
        report = run(settings, Progress(console))
    write_scores_page(settings.folder, report.results, report.failures)
    _show_report(console, report, settings.folder)
    raise typer.Exit(FAILED if report.failures else 0)


class Progress(Observer):
    """Bars for the tasks and for the stages that are running."""

    def __init__(self, console: Console | None = None) -> None:
        self.bars = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            console=console,
        )
        self.of_stage: dict[tuple[str, str], rich.progress.TaskID] = {}

    def run_started(self, tasks: Sequence[Task]) -> None:
        """Show one bar for all tasks."""
        self.all = self.bars.add_task("tasks", total=len(tasks))
        self.bars.start()

    def stage_started(self, task: Task, stage: Stage) -> None:
        """Add a bar for the stage."""
        title = f"{task.name}/{stage.name}"
        self.of_stage[task.name, stage.name] = self.bars.add_task(title, total=stage.steps or None)

    def step(self, task: Task, stage: Stage, step: int) -> None:
        """Move the stage's bar to `step`."""
        self.bars.update(self.of_stage[task.name, stage.name], completed=step)

    def stage_ended(self, task: Task, stage: Stage) -> None:
        """Take the stage's bar away."""
        self.bars.remove_task(self.of_stage.pop((task.name, stage.name)))

    def task_ended(self, task: Task, failure: Failure | None) -> None:
        """Move the bar of all tasks on, and say how the task ended."""
        self.bars.advance(self.all)
        said = Text.assemble(
            (f"{task.name:4}", "bold"), " finished" if failure is None else f" failed: {failure.reason}"
        )
        self.bars.console.print(said, soft_wrap=True)

    def run_ended(self) -> None:
        """Leave the terminal as it was."""
        self.bars.stop()


def _show_inventories(console: Console, data: Data, tasks: Sequence[Task]) -> int:
    """Print what each task lacks; returns how many tasks cannot run."""
    from ..superb.layout import take_inventory

    lacking = 0
    for task in tasks:
        inventory = take_inventory(task.name, data)
        lacking += bool(inventory.problems)
        if inventory.problems:
            console.print(Text.assemble((f"{task.name:4}", "bold"), (" not ready", "red")))
        else:
            deviations = inventory.deviations(task.name)
            state = f", but the result will not be official: {'; '.join(deviations)}" if deviations else ""
            said = Text.assemble((f"{task.name:4}", "bold"), (" ready", "green"), state)
            console.print(said, soft_wrap=True)
        for problem in inventory.problems:
            console.print(f"     {problem}", soft_wrap=True)
    return lacking


def _show_upstream(console: Console, settings: Settings) -> bool:
    """Build the upstream on its device once, and say what it is or why it cannot be."""
    from ..superb.running import check_upstream

    try:
        facts = check_upstream(settings)
    except PrunedUpstreamError as error:
        console.print(Text.assemble(("model", "bold"), (" not ready", "red"), f": {error}"), soft_wrap=True)
        return False
    found = f": {facts['layers']} hidden states, {facts['parameters'] / 1e6:.2f}M parameters, on {facts['device']}"
    console.print(Text.assemble(("model", "bold"), (" ready", "green"), found), soft_wrap=True)
    return True


def _show_report(console: Console, report: Report, folder: Path) -> None:
    from ..readme import PAGE, README
    from ..superb.early import early_estimates
    from ..superb.report import Entry
    from ..superb.results import FILE_NAME

    console.print(_table(report.results))
    for said in early_estimates([Entry.measured(report.results)]):
        console.print(said)
    for task, failure in report.failures.items():
        console.print(Text.assemble((f"{task} failed: ", "bold red"), failure.reason), soft_wrap=True)
        for line in failure.log_tail:
            console.print(f"    {line}", soft_wrap=True)
    console.print(f"wrote {folder / FILE_NAME}", soft_wrap=True)
    console.print(f"look at {folder / PAGE}; {README} beside it says how to go on", soft_wrap=True)


def _table(results: RunResults) -> Table:
    from ..superb.metrics import TASK_METRICS

    table = Table(title=results.model)
    for column in ("task", "metric", "value", "official"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, result in results.tasks.items():
        for metric in TASK_METRICS[name]:
            official = "yes" if result.official else "no: " + result.notes[0]
            table.add_row(name, f"{metric.title} {metric.arrow}", f"{result.metrics[metric.name]:.2f}", official)
    return table


def _paths(entries: Sequence[str] | None, option: str) -> dict[str, Path]:
    return {key: Path(value) for key, value in pairs(entries, option).items()}


def _chosen(tasks: str | None, quick: bool) -> tuple[str, ...] | None:
    from ..superb.early import QUICK_TASKS

    if quick and tasks:
        raise ConfigError(f"--quick runs {', '.join(QUICK_TASKS)}; leave it out, or --tasks")
    return tuple(tasks.replace(" ", "").split(",")) if tasks else QUICK_TASKS if quick else None


def _rates(given: Sequence[str] | None, searched: Sequence[Task]) -> dict[str, tuple[float, ...]]:
    """Learning rates of each task: one that was given, or those to choose among."""
    among = {task.name: LEARNING_RATES for task in searched}
    return among | {task: (_rate(value),) for task, value in pairs(given, "--lr").items()}


def _rate(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"'{value}' is not a learning rate") from error
