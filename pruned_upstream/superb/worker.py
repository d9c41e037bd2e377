"""A stage seen from outside: a process of its own (`stage.py`) that is sent orders and tells how far it is.

Nothing is inherited from the process that starts it but the environment. So a stage owns its GPU from the first call
of CUDA on, and locks and open files of the run are not held by it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..jobs import LOG_LINES, Failure
from ..machine import killed
from .stage import DONE, FAILED, STDERR, STDOUT, STEP

__all__ = ["STDERR", "STDOUT", "Worker", "Workers"]

COMMAND = (sys.executable, "-m", "pruned_upstream.superb.stage")
STOP_SECONDS = 5.0


class Worker:
    """A process for one stage after another.

    Args:
        threads: for torch's operations on the CPU; what the environment says if None.

    Attributes:
        step: optimisation steps that the present stage has made.
        done: whether it has ended well; the process then waits for the next order.
        log: the file of the present stage's errors.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        environment = dict(os.environ)
        if threads is not None:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        with theirs:
            self.process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a group of its own, so that `stop` reaches its data loaders, too
            )
        self.step, self.done = 0, True
        self.log = Path()
        self._told: Failure | None = None

    def run(self, arguments: Sequence[str], *, folder: Path, append: bool = False) -> None:
        """Begin a run of s3prl's command line with its output in `folder`.

        Args:
            append: go on with the output of a run that was interrupted.
        """
        self._order({"arguments": list(arguments)}, folder, append)

    def probe(self, upstream: Mapping[str, str | None], *, facts: Path, folder: Path) -> None:
        """Begin to build an upstream (`stage.probe_upstream`)."""
        self._order({"probe": {**upstream, "facts": str(facts)}}, folder)

    def _order(self, order: Mapping[str, Any], folder: Path, append: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.step, self.done, self._told, self.log = 0, False, None, folder / STDERR
        with contextlib.suppress(BrokenPipeError):  # it has died meanwhile: `failure` says so
            self.connection.send_bytes(json.dumps({**order, "folder": str(folder), "append": append}).encode())

    def look(self, timeout: float = 0.0) -> None:
        """Take in what it has reported, after waiting for the first word at most `timeout` seconds."""
        try:
            while not self.done and self.connection.poll(timeout):
                word = json.loads(self.connection.recv_bytes())
                self.step, self.done = word.get(STEP, self.step), DONE in word
                if FAILED in word:
                    self._told = Failure(word[FAILED]["reason"], tuple(word[FAILED]["log_tail"]))
                timeout = 0.0
        except (EOFError, ConnectionResetError):
            self.process.wait()

    @property
    def failure(self) -> Failure | None:
        """Why the process has ended in the middle of a stage, or None if it has not: the error that ended it, in the
        stage's own words; of a process that could not say any, its end. What other threads printed is in the log."""
        code = None if self.done else self.process.poll()
        if code is None:
            return None
        if self._told is None:
            self.look()  # the last word may have come after the last look
        if self._told is not None:
            return self._told
        if code == -signal.SIGKILL:
            return Failure(killed(-code))
        return Failure(killed(-code) if code < 0 else f"ended with exit code {code}", tail(self.log))

    def wait(self) -> None:
        """Wait until the stage has ended, well or not."""
        while not self.done and self.failure is None:
            self.look(STOP_SECONDS)

    def stop(self) -> None:
        """End the process and whatever it has started."""
        self.connection.close()
        if self.process.poll() is None and not self.done:
            self._kill(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self._kill(signal.SIGKILL)
        self.process.wait()

    def _kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(self.process.pid, number)


class Workers:
    """Processes that have ended a stage and wait for the next, since most of what a short stage takes is imports.

    Args:
        shared: whoever asks is given one. Else it goes on with the task that it has begun, and only with that one.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.idle: list[tuple[Worker, Path | None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(self.idle)

    def take(self, task: Path, *, threads: int | None = None) -> Worker:
        """A process that waits or, where there is none, a new one.

        Args:
            task: the folder of the task that wants it.
            threads: of a new one.
        """
        for number, (_, before) in enumerate(self.idle):
            if self.shared or before in (None, task):
                return self.idle.pop(number)[0]
        return Worker(threads=threads)

    def give_back(self, worker: Worker, task: Path | None = None) -> None:
        """Let it wait, after a stage of `task` or of none."""
        self.idle.append((worker, task))

    def dismiss(self) -> None:
        """End those that wait for one task alone: they would keep their memory, and their GPU's."""
        if not self.shared:
            self._stop(self.idle)

    @staticmethod
    def _stop(idle: list[tuple[Worker, Path | None]]) -> None:
        while idle:
            idle.pop()[0].stop()


def tail(path: Path, lines: int = LOG_LINES) -> tuple[str, ...]:
    """The last lines of a log, progress bars left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    written = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return tuple(line for line in written if line and "it/s]" not in line and "s/it]" not in line)[-lines:]
