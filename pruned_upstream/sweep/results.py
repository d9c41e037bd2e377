"""What the finished points of a sweep say: the table, its means over seeds, and the plots."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..files import atomic_write, write_text
from ..report.runs import read_run
from .grid import SEED, Point, Sweep, plain, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV_FILE, YAML_FILE, TIMES_FILE = "results.csv", "results.yaml", "times.json"
TIMED_FRAMES = 500  # of the utterance: 10 s of every published model
MILLISECONDS = "milliseconds"  # column: for it, at batch 1
PARAMETERS, ZEROS, REACHED, LOSS = "parameters", "sparsity", "counted_sparsity", "loss"
COSTS = (PARAMETERS, MILLISECONDS, ZEROS)
REPORTED = (REACHED, ZEROS, "file_bytes")  # what a run's report may say of its model
MISSED = "missed"  # column: 1 where the target is missed by more than the recipe tolerates


@dataclass(frozen=True)
class Measure:
    """A column of the results as it is shown: what an axis says of it, and by what its values are multiplied."""

    name: str
    label: str
    scale: float = 1.0

    def of(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """Mean and spread in a row of `over_seeds`."""
        return self.scale * row[self.name], self.scale * row[f"{self.name}_spread"]


def finished_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row for each finished point.

    Raises:
        DataError, CheckpointError: a point's files are damaged.
    """
    trained = [point for point in sweep.points if sweep.is_trained(point)]
    rows = [_row(sweep, point) for point in trained]
    if not any(ZEROS in row for row in rows):  # which earn no time
        for row, time in zip(rows, _milliseconds(sweep, trained), strict=True):
            row[MILLISECONDS] = time
    return rows


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], means: Sequence[Mapping[str, Any]]) -> None:
    """Write results.csv and results.yaml.

    Args:
        means: the rows over seeds.
    """
    import yaml

    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_write(folder / CSV_FILE) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tree = {"points": list(rows), "over_seeds": list(means)}
    write_text(folder / YAML_FILE, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def over_seeds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Points that differ in their seed alone as one: their number, and of each measure the mean and the spread.

    The spread is the sample standard deviation, 0 for a single point.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[key] for key in keys if key != SEED]), []).append(row)
    table = []
    for members in groups.values():
        merged: dict[str, Any] = {key: members[0][key] for key in keys if key != SEED} | {"seeds": len(members)}
        for measure in members[0]:
            if measure not in ("point", *keys) and all(measure in row for row in members):
                values = [row[measure] for row in members]
                merged[measure] = mean(values)
                merged[f"{measure}_spread"] = stdev(values) if len(values) > 1 else 0.0
        table.append(merged)
    return table


def measures(sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """What finished points are compared by: costs first, which are the size of the model and its time, then every
    quality that some of them have."""
    from ..superb.metrics import METRICS

    labels = {LOSS: f"{'distillation loss' if sweep.method.distillation else 'loss'} of the last 5 % of steps ↓"}
    labels |= {key: metric.label for key, metric in METRICS.items()}
    if any(ZEROS in row for row in means):
        costs = [Measure(ZEROS, "sparsity (%)", 100.0)]
    else:
        costs = [Measure(PARAMETERS, "parameters (M)", 1e-6), Measure(MILLISECONDS, "10 s in ms")]
    names = dict.fromkeys(name for row in means for name in row if f"{name}_spread" in row)
    others = [name for name in names if name not in (PARAMETERS, MILLISECONDS, MISSED, *REPORTED)]
    return [*costs, *(Measure(name, labels.get(name, name)) for name in others)]


def means_table(sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the means over seeds with their standard deviation, one row per combination of other keys."""
    keys = [axis.key for axis in sweep.axes if axis.key != SEED]
    shown = measures(sweep, means)
    reached = ["reached (%)"] if any(REACHED in row for row in means) else []
    heading = [*(key.rpartition(".")[2] for key in keys), "runs", *reached, *(measure.label for measure in shown)]
    rows = []
    for row in means:
        found = [measure.of(row) if measure.name in row else None for measure in shown]
        cells = ["" if pair is None else _spread(*pair, runs=row["seeds"]) for pair in found]
        if reached:
            ended = f"{100 * row[REACHED]:.1f}" if REACHED in row else ""
            cells.insert(0, f"{ended} MISSED" if row.get(MISSED) else ended)
        rows.append([*(str(row[key]) for key in keys), str(row["seeds"]), *cells])
    return heading, rows


def _spread(mean: float, spread: float, *, runs: int) -> str:
    return f"{mean:.4g} ± {spread:.2g}" if runs > 1 else f"{mean:.4g}"


def trade_offs(sweep: Sweep, means: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Figure]]:
    """Each quality against size and time, a curve for each combination of the keys beside seed and sparsity.

    Returns:
        File name -> what the quality is called, and the figure.
    """
    from ..report.figures import Compared, trade_off

    keys = [axis.key for axis in sweep.axes if axis.key not in (SEED, sweep.method.sparsity)]
    shown = measures(sweep, means)
    costs = [measure for measure in shown if measure.name in COSTS]
    found = {}
    for quality in shown[len(costs) :]:
        curves: dict[str, list[Compared]] = {}
        missed: list[Compared] = []
        for row in means:
            if quality.name in row:
                name = ", ".join(f"{key}={json.dumps(row[key])}" for key in keys)
                point = Compared(tuple(cost.of(row) for cost in costs), quality.of(row))
                curves.setdefault(name or sweep.method.name, []).append(point)
                if row.get(MISSED):
                    missed.append(point)
        suffix = "" if quality.name == LOSS else "_" + plain(quality.name).replace(".", "_")
        figure = trade_off(curves, costs=[cost.label for cost in costs], quality=quality.label, missed=missed)
        found[f"trade_off{suffix}.png"] = quality.label, figure
    return found


def _row(sweep: Sweep, point: Point) -> dict[str, Any]:
    from ..model.size import count_parameters
    from ..training.recognition import COUNTS

    run = read_run(point.folder)
    header: Any = run.header  # which a finished run has
    row: dict[str, Any] = {"point": point.name, **point.values, PARAMETERS: count_parameters(header.config)}
    row |= {name: run.outcome[name] for name in REPORTED if name in run.outcome}
    if MISSED in run.outcome:
        row[MISSED] = int(run.missed is not None)
    if run.loss is not None:
        row[LOSS] = run.curves[run.loss].tail()
    for source, rates in run.outcome.get("tests", {}).items():
        row |= {f"{name.upper()} (%) of {source}": 100 * rates[name] for name in rates if name not in COUNTS}
    return row | scores_of(point, sweep.model(point)).metrics


def _milliseconds(sweep: Sweep, points: Sequence[Point]) -> list[float]:
    """What each point's shape takes for one utterance. Where one has not been measured, all are, for only times that
    were measured in turn compare."""
    from ..description.latency import in_turn
    from ..model.checkpoint import read_header
    from ..model.config import SAMPLE_RATE
    from ..model.encoder import Encoder
    from ..parsing import read_json

    configs: list[Any] = [read_header(sweep.model(point)).config for point in points]
    shapes = {_digest(config.to_json()): config for config in configs}
    path = sweep.folder / TIMES_FILE
    times: dict[str, float] = read_json(path) if path.is_file() else {}
    if not shapes.keys() <= times.keys():
        samples = max(TIMED_FRAMES * config.downsample_rate for config in configs)
        taken = in_turn([Encoder(config) for config in shapes.values()], samples / SAMPLE_RATE)
        times = {shape: 1e3 * seconds for shape, seconds in zip(shapes, taken, strict=True)}
        write_text(path, json.dumps(times, indent=1) + "\n")
    return [times[_digest(config.to_json())] for config in configs]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
