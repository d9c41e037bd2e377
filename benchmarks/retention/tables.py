"""The tables, from the answers that are there."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..measure import RESULTS, machine
from .questions import QUESTIONS
from .students import CONTROLS, METHODS, STEPS

REFERENCE = "ours"  # whose differences to the others are shown
COLUMNS = (
    *(f"{question}.sum" for question in QUESTIONS),
    *(f"{question}.last" for question in (*QUESTIONS, "letters")),
    *(f"{question}.reused" for question in (*QUESTIONS, "letters", "hidden")),
    "masked loss",
    "layer residual",
)
LOWER_IS_BETTER = ("layer residual", "masked loss", "letters.last", "letters.reused")
PARTS = {
    "new heads on a weighted sum": [column for column in COLUMNS if column.endswith(".sum")],
    "new heads on the last layer": [column for column in COLUMNS if column.endswith(".last")],
    "the teacher's heads, unchanged": [column for column in COLUMNS if column.endswith(".reused")],
    "what the teacher was trained for": ["masked loss", "layer residual"],
}
CHOSEN_BY = PARTS["the teacher's heads, unchanged"]  # settings


def write(answers: Path) -> None:
    """results/retention.json and .md."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for answer in _read(answers):
        found[answer["name"]][answer["seed"]] = answer
    names = [name for name in ("teacher", *CONTROLS, *METHODS) if name in found]
    if "teacher" not in names:
        raise SystemExit("the teacher has not been measured yet; run with --methods teacher")
    items = found["teacher"][0]["items"]
    here = machine(steps=STEPS)
    lines = [
        f"Students of {STEPS} steps; accuracies in per cent, `letters` phone error rates, `masked loss` in nats, "
        "`layer residual` in per cent of the variance. Mean over seeds, plus or minus the standard deviation over "
        "them. Test items: " + ", ".join(f"{question} {count:,}" for question, count in items.items()) + "."
    ]
    for part, columns in PARTS.items():
        lines += ["", f"### {part[0].upper()}{part[1:]}", "", *_table(names, found, columns)]
    lines += ["", f"### {REFERENCE} less the others, seed by seed", "", *_differences(names, found)]
    lines += ["", "| name | what it is |", "|---|---|", *(f"| {name} | {METHODS[name].text} |" for name in METHODS)]
    where = "; ".join(f"{key} {value}" for key, value in here.items())
    (RESULTS / "retention.md").write_text("\n".join(lines) + f"\n\nMeasured on: {where}.\n")
    document = {"machine": here, "answers": [answer for name in names for answer in found[name].values()]}
    (RESULTS / "retention.json").write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(lines))


def write_tuning(answers: Path) -> None:
    """results/retention_tuning.md: the settings that were tried, one seed each, and which of a method's is best."""
    columns = [*CHOSEN_BY, *PARTS["what the teacher was trained for"]]
    rows = [" | ".join(["model", "mean", *columns]), " | ".join("---" for _ in ["model", "mean", *columns])]
    for answer in sorted(_read(answers), key=lambda answer: (bool(answer["variant"]), answer["name"])):
        name = ", ".join(part for part in (answer["name"], answer["variant"]) if part)
        cells = [_mean([answer["metrics"][column]], column) for column in columns]
        rows.append(" | ".join([name, f"{_choice(answer['metrics']):.1f}", *cells]))
    lines = [
        f"Students of {STEPS} steps and one seed, asked in voices that give no other table, with the teacher's heads. "
        "Of each method the setting with the highest mean is taken (`letters` as what is left of 100).",
        "",
        *(f"| {row} |" for row in rows),
        "",
        "Measured on: " + "; ".join(f"{key} {value}" for key, value in machine(steps=STEPS).items()) + ".",
    ]
    (RESULTS / "retention_tuning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _choice(metrics: dict[str, float]) -> float:
    return statistics.mean(max(0.0, 100 - metrics[c]) if c in LOWER_IS_BETTER else metrics[c] for c in CHOSEN_BY)


def _read(answers: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(answers.glob("*.json"))]


def _table(names: list[str], found: dict[str, dict[int, dict[str, Any]]], columns: list[str]) -> list[str]:
    head = ["model", "seeds", "parameters (M)", "ms for 10 s", *(column.partition(".")[0] for column in columns)]
    rows = [" | ".join(head), " | ".join("---" for _ in head)]
    for name in names:
        answers = list(found[name].values())
        size = statistics.mean(answer["parameters"] for answer in answers) / 1e6
        cells = [_mean([answer["metrics"][column] for answer in answers], column) for column in columns]
        times = [answer["milliseconds"] for answer in answers if "milliseconds" in answer]  # older answers have none
        rows.append(" | ".join([name, str(len(answers)), f"{size:.2f}", f"{min(times):.0f}" if times else "", *cells]))
    return [f"| {row} |" for row in rows]


def _mean(values: list[float], column: str) -> str:
    digits = 2 if column == "masked loss" else 1
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _differences(names: list[str], found: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Gains, so that above 0 the reference is better whatever the metric; mean and range over common seeds."""
    others = [name for name in names if name in METHODS and name != REFERENCE]
    rows = [" | ".join(["metric", *others]), " | ".join("---" for _ in ["metric", *others])]
    for column in COLUMNS:
        sign = -1 if column in LOWER_IS_BETTER else 1
        cells = []
        for other in others:
            gains = [
                sign * (found[REFERENCE][seed]["metrics"][column] - answer["metrics"][column])
                for seed, answer in found[other].items()
                if seed in found[REFERENCE]
            ]
            cells.append(f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "")
        rows.append(" | ".join([column, *cells]))
    return [f"| {row} |" for row in rows]
