"""Processes that wait for one of them wait as long as it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from training.launching import ROOT

SCRIPT = """
import time
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from pruned_upstream.training.processes import start_processes

dist.init_process_group = partial(dist.init_process_group, timeout=timedelta(seconds=2))
with start_processes("cpu") as processes:
    for name in ("scanned", "decoded"):
        with processes.main_first():
            if processes.is_main:
                time.sleep(4)  # longer than any collective may take here
                open(name, "w").close()
        open(name).close()
    assert processes.gather(processes.rank) == [0, 1]
    assert processes.any(processes.rank == 1) and not processes.any(False)
    assert processes.sum_(torch.ones(2)).tolist() == [2.0, 2.0]
if processes.is_main:
    time.sleep(4)  # what comes after, it does alone
print("done", processes.rank)
"""


def test_a_main_process_that_is_slow(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, "wait.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "done 0" in ended.stdout and "done 1" in ended.stdout
