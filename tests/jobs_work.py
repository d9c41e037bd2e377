"""Work of a job that lasts until it is told to go on."""

from __future__ import annotations

import os
import time
from pathlib import Path


def work(folder: Path) -> str:
    with open(folder / "pids", "a") as file:
        print(os.getpid(), file=file)
    try:
        while not (folder / "go").exists():
            time.sleep(0.05)
    except KeyboardInterrupt:
        time.sleep(2.0)  # longer than submitit is patient
        (folder / "saved").touch()
        raise
    return "done"
