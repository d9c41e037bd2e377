"""Where the time of the ten tasks goes: s3prl's processes, sampled while they run.

    python -m benchmarks.superb_time                 after `pruned-upstream demo`, on its corpora and its compact model
    python -m benchmarks.superb_time --steps 100

Every run of s3prl is looked at fifty times per second from a thread of its own; what the main thread is busy with
decides where that moment counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pruned_upstream.superb import worker
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.running import Settings, run

from .measure import RESULTS, machine, write

DEMO = Path("runs/demo")
SAMPLES = "samples.json"
APART = 0.02  # seconds between two looks

# where a moment counts, by the first frame from the outside whose file ends so (or whose function is called so)
PLACES = {
    "the upstream": ("s3prl_plugin/expert.py",),
    "backward and update": ("torch/autograd/__init__.py", "torch/optim/optimizer.py", "nn/utils/clip_grad.py"),
    "reading data": ("torch/utils/data/dataloader.py", "dataset.py"),
    "checkpoints": ("torch/serialization.py",),
    "the task's head, loss and metric": ("expert.py", "s3prl/nn/upstream.py", "featurizer.py"),
}
STARTING = "starting"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=DEMO / "corpora")
    parser.add_argument("--model", type=Path, default=DEMO / "prune" / "compact.safetensors")
    parser.add_argument("--root", type=Path, default=Path("runs/superb_time"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    worker.run_s3prl = sampled  # forked children take it with them
    report = run(
        Settings(
            folder=arguments.root,
            upstream="pruned_upstream",
            checkpoint=arguments.model,
            data=Data(arguments.corpora),
            steps=arguments.steps,
            short=True,
            device="cpu",
            threads=arguments.threads,
        )
    )
    if report.failures:
        raise SystemExit("\n".join(f"{task}: {failure.reason}" for task, failure in report.failures.items()))
    rows = []
    for task in report.results.tasks:
        places: Counter[str] = Counter()
        stages = sorted((arguments.root / task).rglob(SAMPLES))
        for path in stages:
            places.update(json.loads(path.read_text()))
        total = sum(places.values())
        shares = {place: round(100 * places[place] / total, 1) for place in (STARTING, *PLACES, "the rest")}
        rows.append({"task": task, "runs of s3prl": len(stages), "seconds": round(total, 1)} | shares)
    note = "Shares of each task's time in per cent: one upstream, short trainings and the tests after them."
    write("superb_time", rows, machine(steps=arguments.steps or "short"), note=note)
    _draw(rows)


def sampled(arguments: Sequence[str]) -> None:
    """A run of s3prl, with what it spent where written into its folder."""
    from pruned_upstream.run_downstream import main as run_downstream

    folder = Path(os.readlink("/proc/self/fd/1")).parent  # where the worker has sent its output
    seconds: Counter[str] = Counter()
    ended = threading.Event()
    main_thread = threading.get_ident()

    def watch() -> None:
        before = time.perf_counter()
        while not ended.wait(APART):
            now = time.perf_counter()
            seconds[_place(sys._current_frames()[main_thread])] += now - before
            before = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run_downstream(list(arguments))
    finally:
        ended.set()
        watcher.join()
        (folder / SAMPLES).write_text(json.dumps(seconds))


def _place(frame: FrameType | None) -> str:
    stack = []
    while frame is not None:
        stack.append(frame.f_code)
        frame = frame.f_back
    for code in reversed(stack):
        for place, endings in PLACES.items():
            if code.co_filename.endswith(endings) and code.co_name != "__init__":
                return place
    training = any(code.co_filename.endswith("downstream/runner.py") and code.co_name != "__init__" for code in stack)
    return "the rest" if training else STARTING


def _draw(rows: Sequence[dict]) -> None:
    """A bar a task, cut where the time goes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(rows)
    for place in (STARTING, *PLACES, "the rest"):
        widths = [row["seconds"] * row[place] / 100 for row in rows]
        axes.barh([row["task"] for row in rows], widths, left=left, label=place)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "superb_time.png", dpi=100)


if __name__ == "__main__":
    main()
