"""results/whisper.{md,json,png}: one table for each question, and quality against time."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine
from pruned_upstream.description.figures import COLOURS

from .asking import ASKED, TAUGHT, TRANSCRIBED
from .students import LAYER_0, LEARNING_RATE, METHODS, PRECISION, STEPS, WINDOWS

BUDGET = f"""Budget, stated before the test speakers were asked: one thread; for every method that learns {STEPS} steps
of one window of 30 s, in which recordings are joined until it is full or chance stops, and silence follows. The
paper's run has 200 000 steps of 24 recordings. The rate of {LEARNING_RATE:g}, the windows, and the speech that a
repair is fitted to were chosen on the dev speakers. More steps, seeds and sizes are the same command on another
machine."""

MARKERS = "osD^v<>"
DRAWN = (  # a figure of all methods says nothing
    "random",
    "one-shot",
    "one-shot + repair",
    "one-shot + repair, own axes",
    "best",
    "fast",
    "gentle, own axes",
    "the paper",
    "DPHuBERT-style",
    "DistilHuBERT-style",
)
CORE_TITLE = "Word errors and layers"
QUESTIONS = ("phones", "words", "speakers", "digits", "keywords", "coffee")
Answer = dict[str, Any]
Column = tuple[str, Callable[[Answer], float | None]]


def write(root: Path) -> None:
    """Write the page of what has been answered under `root`, or of what results/whisper.json holds."""
    answers, tuning, earlier = (_read(root / part) for part in ("test", "dev", "earlier"))
    if not answers:
        known = json.loads((RESULTS / "whisper.json").read_text())
        answers, tuning, earlier = known["answers"], known["tuning"], known["earlier"]
    here = machine(dtype="float32")
    lines = ["# Students of Whisper base's encoder, on real weights and real speech", "", *_shown(answers), ""]
    lines += [BUDGET, "", "![quality against time](whisper.png)", ""]
    for number, (budget, of_budget) in enumerate(_budgets(answers).items()):
        lines += _section(f"{CORE_TITLE}: {budget}", _table(of_budget, CORE), "" if number else CORE_TEXT)
    lines += _of_heads(answers, "")
    if tuning:
        lines += _section("What settings were chosen from", _table(tuning, CORE), DEV_TEXT)
    for number, (budget, of_budget) in enumerate(_budgets(earlier).items()):
        lines += _section(f"Earlier: {budget}", _table(of_budget, CORE), "" if number else EARLIER_TEXT)
    lines += _of_heads(earlier, "Earlier: ")
    lines += ["## Who is who", "", "| name | what it is |", "|---|---|"]
    lines += [f"| {name} | {method.text} |" for name, method in METHODS.items()]
    lines += ["", f"Of all that learn: {', '.join(WINDOWS)}, learning rate {LEARNING_RATE:g}, {PRECISION}.", ""]
    lines += ["Measured on: " + "; ".join(f"{key} {value}" for key, value in here.items()) + "."]
    (RESULTS / "whisper.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "whisper.json").write_text(
        json.dumps({"machine": here, "answers": answers, "tuning": tuning, "earlier": earlier}, indent=1)
    )
    _draw(answers)
    print("\n".join(lines))


def _of_heads(answers: Sequence[Answer], prefix: str) -> list[str]:
    lines, headed = [], [answer for answer in answers if "heads" in answer]
    for kind, text in HEADS_TEXT.items() if headed else ():
        columns: list[Column] = [(q, _metric("heads", f"{q}.{kind}")) for q in QUESTIONS]
        lines += _section(f"{prefix}Accuracy of heads, {kind}".capitalize(), _table(headed, columns), text)
    return lines


CORE_TEXT = (
    f"Word errors in per cent of Whisper's own decoder on the student's output against its transcript from the dense "
    f"encoder, up to {TRANSCRIBED} recordings of as many unheard speakers; above 100 where it repeats itself. "
    f"Layer residual and last layer in per cent, on {ASKED} recordings of unheard speakers (maps are "
    f"fitted on {TAUGHT} of others), of the frames of speech. Milliseconds of processor time, one thread, for a window "
    "of 30 s."
)
DEV_TEXT = "Asked on the dev speakers."
EARLIER_TEXT = (
    "Students that learned and were repaired at recordings' own length, crops of 15 s, and were then asked for words "
    "in whole windows. Times are of 10 s at their own length. Nothing here compares with the tables above."
)
HEADS_TEXT = {
    "reused": "Linear heads that were trained on the teacher's last layer, put on the student unchanged, in per cent.",
    "new": "Linear heads trained anew on the student's last layer, in per cent.",
}


def _metric(part: str, name: str) -> Callable[[Answer], float | None]:
    return lambda answer: answer.get(part, {}).get(name)


def milliseconds(core: Answer) -> float | None:
    """Of a window; of earlier answers, of 10 s."""
    return core.get("ms for a window", core.get("ms for 10 s"))


CORE: list[Column] = [
    ("parameters (M)", lambda answer: answer["parameters"] / 1e6),
    ("ms", lambda answer: milliseconds(answer["core"])),
    ("word errors", _metric("core", "word errors")),
    ("of recordings", lambda answer: answer.get("transcribed")),
    ("layer residual", _metric("core", "layer residual")),
    ("last layer", _metric("core", "last layer")),
]


def _shown(answers: Sequence[Answer]) -> list[str]:
    found = RESULTS / "whisper_discussion.md"
    return found.read_text().strip().splitlines() if found.is_file() else []


def _read(folder: Path) -> list[Answer]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _groups(answers: Iterable[Answer]) -> dict[tuple[float, str, str], list[Answer]]:
    """Answers of one student's seeds together: by size, in the order of the methods."""
    order = {name: number for number, name in enumerate(["teacher", LAYER_0, *METHODS])}
    grouped: dict[tuple[float, str, str], list[Answer]] = {}
    for a in sorted(answers, key=lambda a: (a["sparsity"], order[a["name"]], a["variant"], a["seed"])):
        grouped.setdefault((a["sparsity"], a["name"], a["variant"]), []).append(a)
    return grouped


def _budgets(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Answers by what their students were given, smaller students last; the teacher stands in each table."""
    found: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer["sparsity"]):
        if answer["sparsity"]:
            found.setdefault(answer["budget"], []).append(answer)
    teachers = [answer for answer in answers if not answer["sparsity"]]
    return {budget: teachers + of_budget for budget, of_budget in found.items()}


def _table(answers: Sequence[Answer], columns: Sequence[Column]) -> list[str]:
    head = ["pruned", "student", "seeds", *(name for name, _ in columns)]
    rows = [head, ["---"] * len(head)]
    for (sparsity, name, variant), of_seeds in _groups(answers).items():
        cells = [_cell([read(answer) for answer in of_seeds]) for _, read in columns]
        size = f"{100 * sparsity:.0f} %" if sparsity else ""
        rows.append([size, ", ".join(part for part in (name, variant) if part), str(len(of_seeds)), *cells])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if all(isinstance(value, int) for value in known):
        return "/".join(map(str, sorted(set(known))))
    spread = f" ({min(known):.1f} to {max(known):.1f})" if max(known) > min(known) else ""
    return f"{statistics.mean(known):.1f}{spread}"


def _section(title: str, table: Sequence[str], text: str) -> list[str]:
    return [f"## {title}", "", *([text, ""] if text else []), *table, ""]


def _draw(answers: Sequence[Answer]) -> None:
    """One marker per method, one point per size, bars over seeds; the controls are lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = {"word errors": "word errors against the dense transcript (%)", "layer residual": "layer residual (%)"}
    groups = _groups(answers)
    teacher = milliseconds(groups[0.0, "teacher", ""][0]["core"])
    for axes, (metric, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for number, name in enumerate(DRAWN):
            of_sizes = [found for (_, method, _), found in groups.items() if method == name]
            _curve(
                axes, name, number, [[a["core"] for a in found if metric in a["core"]] for found in of_sizes], metric
            )
        control = groups.get((0.0, LAYER_0, ""))
        if control and metric in control[0]["core"]:
            axes.axhline(control[0]["core"][metric], color="#888888", ls="--", lw=1, label=LAYER_0)
        axes.axvline(teacher, color="black", lw=0.8)
        axes.text(teacher, 0.5, "teacher", transform=axes.get_xaxis_transform(), rotation=90, ha="right")
        axes.set(xlabel="processor ms for a window of 30 s, one thread", ylabel=label, yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7)
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    handles = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(RESULTS / "whisper.png", dpi=120)


def _curve(axes: Any, name: str, number: int, of_sizes: Sequence[Sequence[dict[str, float]]], metric: str) -> None:
    """One method: a point for each size, with the range of its seeds."""
    points = sorted(
        (statistics.mean(milliseconds(core) or 0.0 for core in cores), [core[metric] for core in cores])
        for cores in of_sizes
        if metric in cores[0]
    )
    if not points:
        return
    times, means = [time for time, _ in points], [statistics.mean(values) for _, values in points]
    below = [mean - min(values) for mean, (_, values) in zip(means, points, strict=True)]
    above = [max(values) - mean for mean, (_, values) in zip(means, points, strict=True)]
    if METHODS[name].control:
        axes.errorbar(times, means, [below, above], color="#888888", ls=":", marker=".", label=name)
        return
    again, place = divmod(number, len(COLOURS))
    look: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[(number + again) % len(MARKERS)]}
    if again:  # a colour for the second time
        look |= {"ls": "--", "markerfacecolor": "white"}
    axes.errorbar(times, means, [below, above], ms=6, lw=1, label=name, **look)
