"""Commands on a full disk: a small file system in memory where one may be mounted, else a limit on the size of files.
Each must end in a sentence, leave nothing half written and no earlier file harmed.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .kills import PATIENCE_SECONDS, ROOT, Command, Outcome

SIZES = (4_096, 12_288, 40_960, 81_920, 131_072)  # bytes of the disk
# what a command writes that writes one file; here it finds an earlier one
EARLIER = {
    "convert": "out.safetensors",
    "export": "model.onnx",
    "info": "layers.png",
    "repair": "repaired.safetensors",
    "score": "tables/scores.md",
}
CONTENT = b"what was here before"
ENDS = (0, 1, 2, 3)  # 1: a sweep with a failed point; 3: a target that was missed


def fill(
    commands: list[Command], runs: int, place: Path, *, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Run the commands so often in turn, on disks that hold a part of what they write; `say` hears of each run."""
    outcome, rng = Outcome(), random.Random(seed)
    for turn in range(runs):
        command, size = commands[turn % len(commands)], rng.choice(SIZES)
        folder = place / f"full_{turn}"
        with _small_disk(folder, size) as mounted:
            earlier = folder / EARLIER[command.name] if command.name in EARLIER else None
            if earlier is not None:
                earlier.parent.mkdir(exist_ok=True)
                earlier.write_bytes(CONTENT)
            if command.source is not None:
                with contextlib.suppress(OSError, shutil.Error):  # as much as there is room for
                    shutil.copytree(command.source, folder, dirs_exist_ok=True)
            ended = _run(command, folder, None if mounted else size)
            where, known = f"{command.name} on a disk of {size} bytes", len(outcome.faults)
            say(f"{where}: code {ended.returncode}")
            outcome.kills[f"{command.name}, code {ended.returncode}"] += 1
            if ended.returncode not in ENDS or "Traceback" in ended.stdout:
                outcome.faults.append(f"{where}: code {ended.returncode}, {ended.stdout[-800:]}")
            if ended.returncode == 2 and earlier is not None and earlier.read_bytes() != CONTENT:
                outcome.faults.append(f"{where} harmed {earlier.name}")
            left = [path.name for path in folder.rglob("*.unfinished")]
            if left:
                outcome.faults.append(f"{where} left {left}")
            for fault in outcome.faults[known:]:
                say(f"  {fault}")
    return outcome


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount so small a disk at `folder`, and tell whether that may be done here."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


def _run(command: Command, folder: Path, limit: int | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pruned_upstream.cli", *command.arguments(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
                          "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE_SECONDS,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
