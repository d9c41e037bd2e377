"""What no training at all keeps: dimensions chosen by scores, output matrices refitted, on speech of unheard speakers.

    python -m benchmarks.one_shot --speech DIR

`DIR` and what is asked are those of `benchmarks.controllers`. The demo's teacher is cut to several sizes by several
kinds of gates; beside what each keeps stand its parameters, its multiply-accumulates, and its time for 10 s on one
thread, predicted from a table of latencies (`pruning/latency_table.py`) and measured. Written:
results/one_shot.{md,json}.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruned_upstream.description.macs import count_macs
from pruned_upstream.files import write_text
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.gates import GateSettings
from pruned_upstream.pruning.latency_table import LatencyTable, measure, predicted_and_measured
from pruned_upstream.pruning.principal_axes import turn_heads
from pruned_upstream.pruning.repair import repair
from pruned_upstream.pruning.scores import cut_by_scores, dimension_scores

from .controllers import GROUP, SAMPLE_RATE, Bench, stretches
from .measure import RESULTS, machine

FITTED = 80  # recordings of 4 s: 320 s of speech
KINDS = {
    "dimensions": (GateSettings(), "transformer"),
    "turned dimensions": (GateSettings(principal_axes=True), "transformer"),
    "whole heads": (GateSettings(fine_grained=False), "transformer"),
    "whole heads, channels": (GateSettings(fine_grained=False, conv=True), "everything"),
}
CUTS = [
    ("dimensions", "scores", 0.5),
    ("dimensions", "scores", 0.67),
    ("dimensions", "scores", 0.8),
    ("turned dimensions", "scores", 0.5),
    ("turned dimensions", "scores", 0.67),
    ("turned dimensions", "scores", 0.8),
    ("turned dimensions", "scores", 0.9),
    ("whole heads", "scores", 0.5),
    ("whole heads", "scores", 0.67),
    ("whole heads", "scores", 0.8),
    ("whole heads", "scores", 0.9),
    ("whole heads, channels", "scores", 0.4),
    ("whole heads, channels", "scores", 0.6),
    ("dimensions", "random", 0.67),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_shot", description="See the module's docstring.")
    parser.add_argument("--root", type=Path, default=Path("runs/one_shot"))
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.root, arguments.speech)
    encoders = {"the teacher": bench.teacher}
    rows = {"the teacher": _described("the teacher", bench.teacher)}
    for kind, chosen, target in CUTS:
        path = arguments.root / f"{kind}_{chosen}_{target:g}.json".replace(" ", "_")
        model = path.with_suffix(".safetensors")
        if not (path.exists() and model.exists()):
            if arguments.table:
                continue
            _cut(bench, kind, chosen, target, path, model)
        row = json.loads(path.read_text())
        rows[row["name"]], encoders[row["name"]] = row, load(model)
        print(row, flush=True)
    times = _times(bench, encoders, arguments.root)
    _write([row | times[name] for name, row in rows.items()])


def _cut(bench: Bench, kind: str, chosen: str, target: float, path: Path, model: Path) -> None:
    settings, scope = KINDS[kind]
    teacher = bench.teacher
    paths = bench.heard[:: len(bench.heard) // FITTED][:FITTED]
    heard = [teacher.prepare(list(stretches(paths[i : i + GROUP]))) for i in range(0, len(paths), GROUP)]
    start = time.process_time()
    whole = turn_heads(teacher, heard) if settings.principal_axes else teacher
    scores = dimension_scores(whole, heard, settings)
    if chosen == "random":
        generator = torch.Generator().manual_seed(0)
        scores = {kind: torch.rand(score.shape, generator=generator) for kind, score in scores.items()}
    student = compact(whole, cut_by_scores(teacher.config, scores, target, scope))
    repaired = repair(teacher, student, heard).encoder
    row = _described(f"{kind}, {chosen}, {target:.0%}", repaired) | {
        "cpu_seconds": time.process_time() - start,
        "before": bench.residuals(student),
        "after": bench.residuals(repaired),
    }
    save(model, repaired, provenance={"method": "one shot"})
    write_text(path, json.dumps(row))


def _described(name: str, encoder: Encoder) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": count_parameters(encoder.config),
        "gmacs": count_macs(encoder.config, 10 * SAMPLE_RATE).total / 1e9,
    }


def _times(bench: Bench, encoders: Mapping[str, Encoder], root: Path) -> dict[str, dict[str, float]]:
    """Predicted and measured milliseconds of all, measured in turn."""
    table_file = root / "latency.json"
    if not table_file.exists():
        measure(bench.teacher.config, seconds=10.0).save(table_file)
    pairs = predicted_and_measured(list(encoders.values()), LatencyTable.load(table_file))
    return {
        name: {"predicted_ms": 1e3 * predicted, "measured_ms": 1e3 * measured}
        for name, (predicted, measured) in zip(encoders, pairs, strict=True)
    }


def _write(rows: list[dict[str, Any]]) -> None:
    lines = [
        "| student | parameters (M) | GMAC for 10 s | ms for 10 s: predicted | measured | predicted / measured "
        "| layers unexplained %: cut | repaired | last layer, repaired | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        predicted, measured = row["predicted_ms"], row["measured_ms"]
        size = f"{row['parameters'] / 1e6:.2f} | {row['gmacs']:.2f} | {predicted:.1f} | {measured:.1f}"
        size += f" | {predicted / measured:.2f}"
        kept = " | | | "
        if "after" in row:
            before, after = row["before"], row["after"]
            kept = f"{before['layers']:.3f} | {after['layers']:.3f} | {after['last']:.3f} | {row['cpu_seconds']:.0f}"
        lines.append(f"| {row['name']} | {size} | {kept} |")
    here = machine()
    text = "\n".join(lines) + "\n\nMeasured on: " + "; ".join(f"{key} {value}" for key, value in here.items()) + ".\n"
    (RESULTS / "one_shot.md").write_text(text)
    (RESULTS / "one_shot.json").write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
