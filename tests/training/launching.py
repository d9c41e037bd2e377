"""Runs in processes of their own, runs that are interrupted, and what they leave behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.recipe import save_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pruned_upstream.training.processes import start_processes
from pruned_upstream.training.methods import method_named
from pruned_upstream.training.recipe import load_recipe
method = method_named(sys.argv[1])
with start_processes("cpu"):
    for recipe in sys.argv[2:]:
        method.run_recipe(load_recipe(recipe, schema=method.recipe_class))
"""


def launch(
    *recipes: Any, folder: Path, processes: int = 1, method: str = "prune", first: str = ""
) -> subprocess.Popen[str]:
    """Start training by each recipe in turn, as a process group; `folder` takes the script and the recipes' files, and
    `first` is code that runs before."""
    script = folder / "launch.py"
    script.write_text(first + SCRIPT)
    files = [folder / f"{Path(recipe.run.folder).name}.yaml" for recipe in recipes]
    for recipe, file in zip(recipes, files, strict=True):
        save_recipe(recipe, file)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), method, *map(str, files)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]


@contextmanager
def ctrl_c_after(steps: int) -> Iterator[None]:
    """Around a training in this process, which must stop after so many steps, those of earlier stages included."""
    step, done = Trainer.step, itertools.count(1)

    def interrupted(trainer: Trainer, number: int, parts: Any) -> None:
        step(trainer, number, parts)
        if next(done) == steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", interrupted)
        yield


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in rows]


def read_state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)
