"""What bfloat16 and 8-bit weights cost on the ten tasks in miniature, after the demo has run.

    python -m benchmarks.low_precision_tasks                      every row
    python -m benchmarks.low_precision_tasks --rows torch bf16    some of them; --tasks sd,ic for some columns

What stands in the table already stays there while the first row, the demo's own, is the same.
Every row is an upstream for which each task's head was trained and tested anew, with one protocol. Besides the two
questions there are two yardsticks: onnxruntime in single precision differs from torch by rounding alone, and another
seed is what training is left to chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruned_upstream.files import write_text
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.metrics import METRICS
from pruned_upstream.superb.results import RunResults
from pruned_upstream.superb.running import Settings, run

from .measure import RESULTS, machine, write

NAMES = {
    "torch": "torch, single precision",
    "bf16": "torch, bfloat16",
    "seed": "torch, another seed",
    "int8": "onnxruntime, 8-bit weights",
    "onnxruntime": "onnxruntime, single precision",
}
ROWS = list(NAMES)
RESULT = "low_precision_tasks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--root", type=Path, default=Path("runs/low_precision_tasks"))
    parser.add_argument("--jobs", type=int, default=1, help="runs of s3prl side by side")
    parser.add_argument("--tasks", help="only these, such as ks,pr")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    arguments = parser.parse_args()
    model = arguments.demo / "prune" / "compact.safetensors"
    single, int8 = (arguments.root / name for name in ("compact.onnx", "compact.int8.onnx"))
    arguments.root.mkdir(parents=True, exist_ok=True)
    for path, row in ((single, "onnxruntime"), (int8, "int8")):
        if row in arguments.rows:
            _export(model, path, int8=path == int8)
    half = arguments.root / "bf16.yaml"
    write_text(half, "precision: bf16\n")
    torch_run = Settings(
        folder=arguments.demo / "superb" / "compact",
        upstream="pruned_upstream",
        checkpoint=model,
        model="compact",
        data=Data(arguments.demo / "corpora"),
        tasks=tuple(arguments.tasks.split(",")) if arguments.tasks else None,
        short=True,
        device="cpu",
        jobs=arguments.jobs,
    )
    changes = {
        "torch": {},
        "bf16": {"model_config": half},
        "seed": {"seed": torch_run.seed + 1},
        "int8": {"checkpoint": int8},
        "onnxruntime": {"checkpoint": single},
    }
    rows = _table()
    for name in arguments.rows:
        settings = torch_run
        if changes[name]:
            settings = dataclasses.replace(torch_run, folder=arguments.root / name, **changes[name])
        report = run(settings)
        if report.failures:
            raise SystemExit("\n".join(f"{task}: {failure.reason}" for task, failure in report.failures.items()))
        scores = _scores(report.results)
        if name == "torch" and any(rows.get(name, {}).get(key, value) != value for key, value in scores.items()):
            rows = {}  # of another demo
        rows[name] = rows.get(name, {"upstream": NAMES[name]}) | scores
        shown = [rows[name] for name in ROWS if name in rows]
        write(RESULT, shown, machine(steps="short", data="self-made"), note=_note(shown))


def _table() -> dict[str, dict[str, Any]]:
    """The rows that stand in the table, by their names here."""
    path = RESULTS / f"{RESULT}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    names = {said: name for name, said in NAMES.items()}
    return {names[row["upstream"]]: row for row in rows}


def _export(model: Path, onnx: Path, *, int8: bool) -> None:
    from pruned_upstream.export import export_onnx
    from pruned_upstream.model.checkpoint import load, read_header

    if not onnx.exists() or onnx.stat().st_mtime < model.stat().st_mtime:
        export_onnx(load(model), onnx, int8=int8, provenance=read_header(model).provenance)


def _scores(results: RunResults) -> dict[str, object]:
    return {key: round(value, 2) for key, value in results.metrics.items()}


def _note(rows: Sequence[dict[str, Any]]) -> str:
    """How many points each row loses against the first, over all metrics."""
    lines = ["s3prl's metrics in per cent, short trainings on self-made corpora."]
    for row in rows[1:]:
        lost = [
            (row[key] - rows[0][key]) * (-1 if METRICS[key].higher_is_better else 1) for key in METRICS if key in row
        ]
        lines.append(
            f"{row['upstream']}: {sum(lost) / len(lost):+.2f} points lost on average over {len(lost)} metrics, "
            f"from {min(lost):+.2f} to {max(lost):+.2f}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
