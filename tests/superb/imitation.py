"""A stage in which a few lines stand in the place of s3prl: what a run of it does to the disk, in milliseconds.

python imitation.py CONNECTION PARENT
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import time
from pathlib import Path

import yaml
from torch.utils.data import DataLoader

from pruned_upstream.errors import ConfigError
from pruned_upstream.superb import stage


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def log_writer() -> None:
    """As tensorboardX's, which ends in a thread of its own with whatever error it has."""
    print("Traceback (most recent call last):\nOSError: write of curves failed", file=sys.stderr, flush=True)


def read(batch: list[Path]) -> bytes:
    return batch[0].read_bytes()


def run_s3prl(arguments: list[str]) -> None:
    """Trainings write states-1 ... states-3 and, if one is there, go on behind the last; tests print a metric.

    Files beside the training's folder change what it does: `hang` in the run folder, `fail`, `full`, `lost`, `die`,
    `slow` in the task's.
    """
    print(f"process {os.getpid()}", file=sys.stderr)
    if option(arguments, "-m") == "evaluate":
        assert Path(option(arguments, "-e")).exists()
        print("test acc: 0.5")
        return
    folder = Path(option(arguments, "-p"))
    if (folder.parent / "slow").exists():
        time.sleep(0.3)
    done = len(list(folder.glob("states-*.ckpt")))
    for step in range(done + 1, 4):
        print(f"dev acc: {step / 10}")
        (folder / f"states-{step}.ckpt").touch()
        if step == 2 and (folder.parents[1] / "hang").exists():
            helper = os.fork()  # as a data loader is
            if not helper:
                time.sleep(60)
                os._exit(0)
            (folder / "hanging").write_text(f"{os.getpid()} {helper}")
            time.sleep(60)
        if (folder.parent / "fail").exists():
            raise RuntimeError("the dog ate it")
        if (folder.parent / "full").exists():
            atexit.register(log_writer)
            raise OSError(errno.ENOSPC, "No space left on device")
        if (folder.parent / "lost").exists():
            DataLoader([folder / "a.wav"], num_workers=1, collate_fn=read).__iter__().__next__()
        if (folder.parent / "die").exists():
            log_writer()
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / "dev-best.ckpt").touch()


def probe_upstream(name: str, checkpoint: str | None, model_config: str | None, device: str | None, facts: str) -> None:
    if name == "impossible":
        raise ConfigError("no such upstream")
    Path(facts).write_text(yaml.safe_dump({"layers": 2, "parameters": 7, "device": device}))


if __name__ == "__main__":
    stage.prepare = lambda report: None
    stage.run_s3prl, stage.probe_upstream = run_s3prl, probe_upstream
    stage.main(sys.argv[1:])
