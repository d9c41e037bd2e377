"""Interleaved timing, and tables that say where they were measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
MEMORY = "GLIBC_TUNABLES"  # how the C library asks for memory, which shapes of 10 s feel (docs/speed.md)
PACKAGES = ("torch", "torchaudio", "s3prl", "transformers", "onnx", "onnxruntime")

# On a machine that others use too, the wall clock counts their work as well; with one thread, the processor time of
# this process is what the wall clock would show on an idle machine.
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, and how many times faster than the first candidate it is."""

    name: str
    median: float
    fastest: float
    speedup: float  # median of the ratios of neighbouring runs, which what else the machine does hits alike
    lowest_speedup: float
    highest_speedup: float


def race(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int, clock: str = "wall", device: str = "cpu"
) -> list[Timing]:
    """Run the candidates in turn, `repeats` rounds after one that warms up; the first is the reference."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(repeats + 1):
        # there and back, so that no candidate always runs after the same one
        for name, run in list(candidates.items())[:: -1 if round_number % 2 else 1]:
            _wait(device)
            start = CLOCKS[clock]()
            run()
            _wait(device)
            if round_number:
                taken[name].append(CLOCKS[clock]() - start)
    reference = taken[next(iter(candidates))]
    timings = []
    for name, seconds in taken.items():
        ratios = [ours / theirs for ours, theirs in zip(reference, seconds, strict=True)]
        timings.append(
            Timing(name, statistics.median(seconds), min(seconds), statistics.median(ratios), min(ratios), max(ratios))
        )
    return timings


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(device: str = "cpu", **settings: Any) -> dict[str, Any]:
    """Where and when: processor, threads, versions, date, and the benchmark's own settings."""
    versions = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    here = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "bf16 instructions": _bf16_instructions(),
        "python": platform.python_version(),
        **versions,
        **settings,
    }
    if device.startswith("cuda"):
        here["gpu"] = torch.cuda.get_device_name(device)
    if MEMORY in os.environ:
        here["memory"] = os.environ[MEMORY]
    return here


def _cpu_info(key: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _processor() -> str:
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _bf16_instructions() -> str:
    flags = _cpu_info("flags").split()
    return ", ".join(flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags) or "none"


def write(
    name: str, rows: Sequence[Mapping[str, Any]], here: Mapping[str, Any], *, note: str = "", folder: Path = RESULTS
) -> None:
    """One table as NAME.json and .md."""
    folder.mkdir(exist_ok=True)
    document = {"machine": dict(here), "note": note, "rows": [dict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(column, "")) for column in columns) for row in rows]
    where = "; ".join(f"{key} {value}" for key, value in here.items())
    text = "\n".join(f"| {line} |" for line in lines)
    (folder / f"{name}.md").write_text(f"{text}\n\n{note + chr(10) if note else ''}Measured on: {where}.\n")
    print(text, where, sep="\n\n")


def _cell(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def timing_row(timing: Timing, **columns: Any) -> dict[str, Any]:
    """A table row: milliseconds, and the speed-up with its range."""
    numbers = asdict(timing)
    return {
        **columns,
        "model": numbers["name"],
        "ms": round(numbers["median"] * 1e3, 1),
        "fastest ms": round(numbers["fastest"] * 1e3, 1),
        "times faster": round(numbers["speedup"], 2),
        "range": f"{numbers['lowest_speedup']:.2f} to {numbers['highest_speedup']:.2f}",
    }


def draw(
    name: str, rows: Sequence[Mapping[str, Any]], *, group: Callable[[Mapping[str, Any]], str], title: str
) -> None:
    """Bars of the rows' speed-ups, one panel per group, as results/NAME.png."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(group(row) for row in rows))
    figure = Figure(figsize=(4 + 4 * len(groups), 0.4 * len(rows) / len(groups) + 1.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
        members = [row for row in rows if group(row) == key]
        bars = axes.barh([row["model"] for row in members], [row["times faster"] for row in members], color="#4477aa")
        axes.bar_label(bars, fmt="%.2f", padding=2)
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set(title=key, xlabel="times faster")
        axes.margins(x=0.15)
        axes.invert_yaxis()
    figure.suptitle(title)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
