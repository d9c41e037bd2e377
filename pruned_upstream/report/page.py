"""One HTML page about one or several runs: numbers, what their recipes do otherwise, figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..description import anatomy
from ..description.macs import BUCKETS, official_macs
from ..model.config import EncoderConfig
from ..model.size import count_parameters
from ..superb.report import ABSENT, Entry, overview
from ..superb.results import RunResults
from ..superb.scores import truncate
from ..training.recipe import REQUIRED, Kind, key_kinds
from ..training.reports import in_words, remarks
from . import figures
from .html import Grid, duration, pictures, write_html
from .runs import Run, base_recipe
from .scores_page import score_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(
    path: str | Path, runs: Sequence[Run], superb: Sequence[RunResults] = (), *, title: str | None = None
) -> None:
    """Write the page.

    Args:
        superb: scores to show; those of a run's own model file stand in its column, too.

    Raises:
        PrunedUpstreamError: the file cannot be written.
    """
    write_html(
        path,
        "runs.html",
        title or ", ".join(run.name for run in runs),
        pictures(_figures(runs, superb)),
        runs=runs,
        statuses={run.name: status(run) for run in runs},
        numbers=numbers(runs, superb),
        recipes=recipe_differences(runs),
        scores=scores(superb),
    )


def status(run: Run) -> str:
    """How far a run has come, in words."""
    if run.finished:
        return f"finished; {run.missed}" if run.missed else "finished"
    if not run.curves:
        return "begun, nothing reported yet"
    if run.steps >= run.total_steps:
        return f"trained ({run.steps} steps), its model is not finished yet"
    return f"unfinished: step {run.steps} of {run.total_steps}"


def numbers(runs: Sequence[Run], superb: Sequence[RunResults] = ()) -> Grid:
    """Everything countable, one column per run; what a run cannot tell (yet) is a dash."""
    columns = [_numbers(run, _own_scores(run, superb)) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    return Grid(
        [run.name for run in runs], [(name, [column.get(name, ABSENT) for column in columns]) for name in names]
    )


def recipe_differences(runs: Sequence[Run]) -> Grid | None:
    """Keys in which a run differs from the base recipe of its method, or from another run; None without any.

    Cells that differ from the base are marked. Where the runs are, and how often they report, is left out.
    """
    bases = [base_recipe(run.method) if run.method else dict(run.recipe) for run in runs]
    kinds = {key: kind for run in runs if run.method for key, kind in key_kinds(run.method.recipe_class).items()}
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.recipe) if _compared(key, kinds)]
    rows: list[tuple[str, list[str]]] = []
    marked: set[tuple[int, int]] = set()
    for key in keys:
        given = [run.recipe.get(key, ABSENT) for run in runs]
        usual = [base.get(key, ABSENT) for base in bases]
        if all(value == given[0] for value in given) and (given == usual or REQUIRED in usual):
            continue
        other = [own != base and base != REQUIRED for own, base in zip(given, usual, strict=True)]
        marked |= {(len(rows), column + 1) for column, is_other in enumerate(other) if is_other}
        base_values = list(dict.fromkeys(in_words(value) for value in usual if value != REQUIRED))
        rows.append((key, [" / ".join(base_values) or ABSENT, *map(in_words, given)]))
    if not rows:
        return None
    methods = dict.fromkeys(run.method.base for run in runs if run.method)
    return Grid([" / ".join(methods) or "base", *[run.name for run in runs]], rows, marked)


def _compared(key: str, kinds: Mapping[str, Kind]) -> bool:
    return key != "data.train" and kinds.get(key) is not Kind.LAUNCH


def scores(superb: Sequence[RunResults]) -> Grid | None:
    """SUPERB, one column per model; None without any results."""
    if not superb:
        return None
    table = overview([Entry.measured(results) for results in superb])
    rows = [(name, [row[i] for row in table.rows]) for i, name in enumerate(table.header)]
    return Grid([row[0] for row in table.rows], rows[1:], notes=table.notes)


def _numbers(run: Run, results: RunResults | None) -> dict[str, str]:
    outcome = run.outcome
    found: dict[str, str] = {"method": run.method_name, "status": status(run)}
    if "teacher" in run.recipe:
        found["teacher"] = Path(str(run.recipe["teacher"])).name
    if run.header is not None:
        found |= _size(run, run.header.config)
    for key in ("target", "expected", "counted"):
        if f"{key}_sparsity" in outcome:
            found[f"sparsity, {key}"] = f"{outcome[f'{key}_sparsity']:.2%}"
    if "sparsity" in run.curves and "expected_sparsity" not in outcome:
        target = run.recipe.get("sparsity.target", run.recipe.get("parp.sparsity"))
        if target is not None:
            found["sparsity, target"] = f"{target:.2%}"
        counted, so_far = outcome.get("sparsity"), run.curves["sparsity"].last
        found |= (
            {"sparsity, expected": f"{so_far:.2%}, so far"}
            if counted is None
            else {"sparsity, counted": f"{counted:.2%}"}
        )
    if "difference_from_gated" in outcome:
        found["compact against gated, largest difference"] = f"{outcome['difference_from_gated']:.1e}"
    if run.loss is not None:
        found[f"{run.loss}, mean of the last 5 % of steps"] = f"{run.curves[run.loss].tail():.5g}"
    found["steps"] = f"{run.steps} of {run.total_steps}"
    if run.seconds:
        found["training time"] = duration(run.seconds)
        found["seconds per step"] = f"{run.seconds / run.steps:.3g}"
    for source, rates in outcome.get("tests", {}).items():  # of a finetuning: error rates, and recordings
        found[f"test on {Path(source).name}"] = ", ".join(f"{name} {value:.4g}" for name, value in rates.items())
    if "recordings" in outcome:
        found["recordings"] = str(outcome["recordings"])
    if "hours" in outcome:
        found["hours of speech"] = f"{outcome['hours']:.2f}"
    if "skipped" in outcome:
        found["recordings skipped before training"] = str(len(outcome["skipped"]))
    if "dropped" in outcome:
        found["recordings found unusable in training"] = str(len(outcome["dropped"]))
    if outcome.get("repeated"):
        found["recordings named more than once"] = str(outcome["repeated"])
    for title, said in remarks(outcome):
        found[title] = f"{found[title]}; {said}" if title in found else said
    if run.launches:
        found["launches"] = str(len(run.launches))
        found["processes"] = ", ".join(dict.fromkeys(str(launch.get("processes", "?")) for launch in run.launches))
    if results is not None:
        found["superb_s"] = _superb_s(Entry.measured(results))
    return found


def _superb_s(entry: Entry) -> str:
    if entry.superb_s is None:
        return f"none, tasks are missing: {', '.join(entry.missing)}"
    if entry.unofficial:
        return f"none, results are not official: {', '.join(entry.unofficial)}"
    return truncate(entry.superb_s)


def _size(run: Run, config: EncoderConfig) -> dict[str, str]:
    before = run.outcome.get("teacher_parameters", count_parameters(config.densified()))
    after = count_parameters(config)
    less = f" ({1 - after / before:.1%} fewer)" if after < before else ""
    found = {"parameters": f"{after:,} of {before:,}{less}" if less else f"{after:,}"}
    macs, dense = (official_macs(shape) for shape in (config, config.densified()))
    counts = [(name, here.total, there.total) for name, here, there in zip(BUCKETS, macs, dense, strict=True)]
    counts.append(("all 32", sum(here for _, here, _ in counts), sum(there for _, _, there in counts)))
    for name, here, there in counts:
        share = f" ({here / there:.1%} of the dense)" if here < there else ""
        found[f"MACs (G), {name} utterances"] = f"{here / 1e9:.2f}{share}"
    return found


def _figures(runs: Sequence[Run], superb: Sequence[RunResults]) -> Iterable[tuple[str, str, Figure | None]]:
    drawn: list[tuple[str, str, Figure | None]] = [
        (
            "Sparsity",
            "Expected by the gates; what was counted in the file is a mark.",
            figures.sparsity(runs),
        ),
        (
            "Learning",
            "Means since the line before; the distance from the teacher is what runs are compared by.",
            figures.learning(runs),
        ),
        (
            "Gates over training",
            "Means of all layers. The first two axes are figure 3a of Wang et al. (2023), with and without STE.",
            figures.gates(runs),
        ),
        ("Multipliers", "They rise for as long as the target is missed.", figures.multipliers(runs)),
        (
            "Pairing",
            "The student layer that learns from each teacher layer, counted from 1; between two where it changed.",
            figures.pairing(runs),
        ),
    ]
    drawn += [(f"Gates by layer: {run.name}", "Means of each layer.", figures.gates_by_layer(run)) for run in runs]
    models = {run.name: run.header.config for run in runs if run.header is not None}
    if models:
        caption = "The first axes are figure 3b of Wang et al. (2023)."
        drawn.append(("What survives", caption, anatomy.comparison(models)))
    for name, config in models.items():
        if not config.is_dense:
            caption = "Every head's width, the feed-forward width and the parameters of each layer."
            drawn.append((f"What survives: {name}", caption, anatomy.figure(config)))
    return [*drawn, *score_figures(superb)]


def _own_scores(run: Run, superb: Sequence[RunResults]) -> RunResults | None:
    """Results that were measured with this run's model file."""
    if run.model is None:
        return None
    own = run.model.resolve()
    return next((r for r in superb if r.checkpoint is not None and Path(r.checkpoint).resolve() == own), None)
