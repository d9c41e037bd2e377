"""Commands on a full disk: a limit on the size of files stands for it. Each must end in a sentence and
leave nothing half written.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from .kills import PATIENCE_SECONDS, ROOT, Command, Outcome

LIMITS = (0, 100, 1000, 10_000, 30_000, 60_000)  # bytes of a file


def fill(commands: list[Command], runs: int, place: Path, *, seed: int = 0) -> Outcome:
    """Run the commands so often in turn, with a limit that lies somewhere in what they write."""
    outcome, rng = Outcome(), random.Random(seed)
    for turn in range(runs):
        command, limit = commands[turn % len(commands)], rng.choice(LIMITS)
        folder = place / f"full_{turn}"
        folder.mkdir(parents=True)
        ended = _limited(command, folder, limit)
        outcome.kills[f"{command.name}, code {ended.returncode}"] += 1
        where = f"{command.name} with files of {limit} bytes"
        if ended.returncode not in (0, 2) or "Traceback" in ended.stdout:
            outcome.faults.append(f"{where}: code {ended.returncode}, {ended.stdout[-800:]}")
        left = [path.name for path in folder.rglob("*.unfinished")]
        if left:
            outcome.faults.append(f"{where} left {left}")
        shutil.rmtree(folder)
    return outcome


def _limited(command: Command, folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pruned_upstream.cli", *command.arguments(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
                          "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
