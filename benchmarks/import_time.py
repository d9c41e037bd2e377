"""What importing costs: `python -m benchmarks.import_time` writes results/import_time.*."""

from __future__ import annotations

import statistics
import subprocess
import sys

from .measure import machine, write

STATEMENTS = (
    "import torch",
    "import pruned_upstream",
    "import torch, pruned_upstream; pruned_upstream.load",
    "import pruned_upstream.cli",
)
REPEATS = 5
TIMER = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def main() -> None:
    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(REPEATS):
        for statement, taken in seconds.items():
            command = [sys.executable, "-c", TIMER.format(statement)]
            taken.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    rows = [
        {
            "statement": statement,
            "ms": round(statistics.median(taken) * 1e3, 1),
            "fastest ms": round(min(taken) * 1e3, 1),
        }
        for statement, taken in seconds.items()
    ]
    write("import_time", rows, machine(clock="processor time of the process", repeats=REPEATS))


if __name__ == "__main__":
    main()
