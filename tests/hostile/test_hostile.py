"""The short form of the attacks, and each fault that the long one has found as a test of its own kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def long_form(*, timeout: float | None = None, **sizes: int) -> subprocess.CompletedProcess[str]:
    """`python -m hostile` in a process of its own, since what has computed cannot be forked."""
    command = [sys.executable, "-W", "ignore", "-m", "hostile"]
    for name, size in sizes.items():
        command += [f"--{name}", str(size)]
    paths = f"{ROOT}:{ROOT / 'tests'}"
    return subprocess.run(
        command, env=_environment(PYTHONPATH=paths), capture_output=True, text=True, timeout=timeout, check=False
    )


def test_spoiled_files_of_every_format_end_in_sentences():
    ended = long_form(files=150, kills=0, pairs=0, disks=0, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert "0 escapes" in ended.stdout


@pytest.mark.slow
def test_killed_commands_leave_what_undisturbed_ones_leave():
    ended = long_form(files=0, kills=12, pairs=1, disks=12)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]


def _environment(**more: str) -> dict[str, str]:
    import os

    return os.environ | {"OMP_NUM_THREADS": "1"} | more
