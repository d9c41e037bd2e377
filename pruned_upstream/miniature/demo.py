"""The main job from end to end on self-made data: teacher, pruning, compact upstream, tasks, table, pictures.

Every part is what a user runs on real data, and is done once: an interrupted demo goes on with the same command.
What its numbers say is only that the path works. Self-made voices, a teacher of three million parameters and
minutes of training decide nothing about WavLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import PrunedUpstreamError
from .building import build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..jobs import Failure
    from ..superb.observer import Observer
    from ..superb.report import Table
    from ..superb.results import RunResults
    from ..superb.running import Settings

TEACHER = Path(__file__).parent / "demo_teacher.safetensors"  # half precision; recipes/demo_teacher.yaml makes it
SHORT_TASKS = ("ks", "pr", "qbe")
SHORT_STEPS = 4


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Attributes:
        folder: everything is written there, and found again there. Both forms may share it.
        short: tiny corpora, a handful of steps and three tasks: the path alone, for CI.
        teacher: measure the teacher on the tasks too.
        recipe: of the pruning.
        tasks: names of tasks; by default all ten, or three in the short form.
    """

    folder: Path
    short: bool = False
    teacher: bool = False
    recipe: str = "demo"
    tasks: tuple[str, ...] | None = None
    jobs: int = 1

    def place(self, name: str) -> Path:
        """A file or folder of the demo; the short form's have names of their own."""
        path = self.folder / name
        return path.with_stem(f"{path.stem}-short") if self.short else path


@dataclass(frozen=True)
class DemoResult:
    """What came out: the compact model, the tasks' results and failures by model, and the files to look at."""

    model: Path
    results: dict[str, RunResults]
    failures: dict[str, dict[str, Failure]]
    pictures: list[Path]


def run_demo(
    settings: DemoSettings, say: Callable[[str], None], observer: Callable[[], Observer] | None = None
) -> DemoResult:
    """Run the demo, or what is left of it.

    Args:
        say: shows a line that says what happens next.
        observer: makes what shows the progress of one model's tasks.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`, from any part.
    """
    from ..report.scores_page import write_scores_page
    from ..superb.running import run
    from ..superb.tasks import select
    from ..superb.worker import Workers

    tasks = settings.tasks or (SHORT_TASKS if settings.short else tuple(task.name for task in select(None)))
    corpora = settings.place("corpora")
    say(f"speech: self-made corpora for {', '.join(tasks)} and for the teacher, in {corpora}")
    build(corpora, ["pretrain", *tasks], scale="tiny" if settings.short else "demo")
    say(f"pruning: recipe {settings.recipe}, the demo's teacher, in {settings.place('prune')}")
    model = _prune(settings, corpora)
    results, failures = {}, {}
    models = {"fbank": None, "compact": model} | ({"teacher": TEACHER} if settings.teacher else {})
    with Workers(shared=True) as workers:
        for name, checkpoint in models.items():
            say(f"tasks: {name} on {len(tasks)} of the ten tasks, through s3prl")
            measured = _measure(settings, name, checkpoint, tasks, corpora)
            report = run(measured, observer() if observer else None, workers)
            results[name], failures[name] = report.results, dict(report.failures)
            write_scores_page(measured.folder, report.results, report.failures)
    return DemoResult(model, results, failures, _draw(settings, model, results))


def _measure(
    settings: DemoSettings, name: str, checkpoint: Path | None, tasks: tuple[str, ...], corpora: Path
) -> Settings:
    from ..superb.layout import Data
    from ..superb.running import Settings

    return Settings(
        folder=settings.place("superb") / name,
        # plain "fbank" has mean zero over every utterance: nothing for the heads that pool by the mean
        upstream="fbank_no_cmvn" if checkpoint is None else "pruned_upstream",
        checkpoint=checkpoint,
        model=name,
        data=Data(corpora),
        tasks=tasks,
        steps=SHORT_STEPS if settings.short else None,
        short=True,
        device="cpu",
        jobs=settings.jobs,
    )


def _prune(settings: DemoSettings, corpora: Path) -> Path:
    from ..report.folder import explain
    from ..training.prune import MODEL_FILE, PruneRecipe, run_prune
    from ..training.recipe import load_recipe

    if not TEACHER.is_file():
        raise PrunedUpstreamError(
            f"the demo's teacher {TEACHER.name} is not where it belongs; reinstall the package, "
            "or make it anew with `pruned-upstream pretrain demo_teacher`"
        )
    folder = settings.place("prune")
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE
    overrides = [
        f"teacher={TEACHER}",
        f"data.train=[{corpora / 'LibriSpeech' / 'train-clean-360'}]",
        f"run.folder={folder}",
        "run.device=cpu",
    ]
    if settings.short:
        # too few steps for the gates: the cut closes as many more as the target asks for
        overrides += ["optimisation.steps=20", "optimisation.gate_learning_rate=0.5", "data.batch_utterances=2"]
        overrides += ["sparsity.exact=true"]
    model = run_prune(load_recipe(settings.recipe, PruneRecipe, overrides))
    explain(folder)
    return model


def table(results: dict[str, RunResults]) -> Table:
    """The models side by side, one line each, by s3prl's metrics."""
    from ..superb.report import Entry, overview

    return overview([Entry.measured(result) for result in results.values()])


def _draw(settings: DemoSettings, model: Path, results: dict[str, RunResults]) -> list[Path]:
    from ..description import anatomy
    from ..description.figures import save_figure
    from ..model.checkpoint import read_header

    pictures = [settings.place("layers.png"), settings.place("tasks.png")]
    save_figure(anatomy.figure(read_header(model).config), pictures[0])
    save_figure(_task_figure(list(results.values())), pictures[1])
    return pictures


def _task_figure(results: Sequence[RunResults]) -> Figure:
    """One row per metric, one mark per model; FBANK and a teacher are lines, what to be above and what to reach."""
    from matplotlib.figure import Figure

    from ..description.figures import look
    from ..superb.metrics import METRICS

    lines: dict[str, tuple[Literal[":", "--"], str]] = {"fbank": (":", "#666666"), "teacher": ("--", "#000000")}
    shown = [key for key in METRICS if any(key in result.metrics for result in results)]
    figure = Figure(figsize=(7.5, 1.6 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        rows = [row for row, key in enumerate(shown) if key in result.metrics]
        values = [_as_gain(METRICS[shown[row]].higher_is_better, result.metrics[shown[row]]) for row in rows]
        label = f"{result.model} ({_size(result)})"
        if result.model in lines:
            stroke, colour = lines[result.model]
            below, above = ([row + reach for row in rows] for reach in (-0.4, 0.4))
            axes.vlines(values, below, above, colors=colour, linestyles=stroke, linewidth=2, label=label)
            continue
        axes.plot(values, rows, **look(number) | {"linestyle": "none"}, markersize=8, label=label)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(f"{value:.0f}", (value, row), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    names = [key.upper().replace(".", " ") for key in shown]
    labels = [
        name if METRICS[key].higher_is_better else f"100 - {name}" for key, name in zip(shown, names, strict=True)
    ]
    axes.set_yticks(range(len(shown)), labels, fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("further right is better \N{RIGHTWARDS ARROW}")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Self-made corpora, short trainings: the path works, no more", fontsize=10)
    figure.legend(frameon=False, fontsize=8, ncols=len(results), loc="outside lower center")
    return figure


def _as_gain(higher_is_better: bool, value: float) -> float:
    """Below zero where insertions make more errors than there are words."""
    return value if higher_is_better else 100 - value


def _size(result: RunResults) -> str:
    return f"{result.parameters / 1e6:.2f}M parameters" if result.parameters else "no parameters"
