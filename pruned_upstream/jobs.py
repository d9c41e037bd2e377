"""Work as jobs through submitit: of SLURM, of this machine (processes), or of this process (debug).

A job is work that goes on where it stopped when it is done again; one that SLURM takes back is queued anew.

Whoever launches jobs may be killed at any moment. Jobs of this machine then end with it. Those of SLURM live on, and
the same command takes them up again: their numbers are in the folder of the logs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from .errors import ConfigError, DataError, PrunedUpstreamError
from .files import locked, write_text
from .machine import blocked, signals_as_interruptions
from .parsing import read_json

log = logging.getLogger(__name__)

Launcher = Literal["slurm", "local", "debug"]
LAUNCHERS: tuple[Launcher, ...] = ("slurm", "local", "debug")
POLL_SECONDS = 0.2
LOG_LINES = 15
TIMEOUT_MINUTES = 72 * 60
ENDING_SECONDS = 10.0  # that a job of this machine gets at least to end what it has started
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LOCK, QUEUED = ".launch.lock", "queued.json"
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "PREEMPTED", "REQUEUED")  # SLURM's words
UNLISTED_SECONDS = 600.0  # after which a job that SLURM does not know is not a new one any more

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Work that could not be finished: why, and the end of its log."""

    reason: str
    log_tail: tuple[str, ...] = ()


class Resumable(Generic[Result]):
    """What submitit sends to a job: picklable, and submitted again as it is when SLURM stops the job.

    Args:
        environment: variables that the job sets before it works, or unsets (None).
        lock: the job ends, whatever it is doing, when nobody holds this lock any more.
    """

    def __init__(
        self, work: Callable[[], Result], environment: Mapping[str, str | None], lock: Path | None = None
    ) -> None:
        self.work = work
        self.environment = environment
        self.lock = lock

    def __call__(self) -> Result | Failure:
        """Do the work in this environment, while the lock is held."""
        if self.lock is not None:
            signal.signal(signal.SIGTERM, _interrupt_once)  # submitit would only write down that it came
            threading.Thread(target=_end_when_free, args=(self.lock,), daemon=True).start()
        for variable, value in self.environment.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
        try:
            return self.work()
        except PrunedUpstreamError as error:  # its sentence says more than a traceback
            return Failure(str(error))

    def checkpoint(self) -> Any:
        """What submitit calls ahead of a preemption: the same work, to be submitted once more."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _interrupt_once(number: int, frame: object) -> None:
    """SIGTERM to a whole group comes twice, the second time through the launcher: it must not end what the first has
    begun to save. What takes too long is killed by the launcher."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_when_free(lock: Path) -> None:
    with open(lock) as file:
        while True:
            time.sleep(POLL_SECONDS)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                os.kill(os.getpid(), signal.SIGKILL)


def run_jobs(
    work: Mapping[str, Callable[[], Result]],
    folder: Path,
    launcher: str,
    parameters: Mapping[str, str | int],
    *,
    name: str,
    at_once: int | None = None,
    grace_seconds: float = 0.0,
    ended: Callable[[str, Result | Failure], None] = lambda name, result: None,
) -> dict[str, Result | Failure]:
    """Submit a job for each piece of work and wait for all of them.

    Whatever ends this process (Ctrl-C, SIGTERM, the SIGHUP of a lost terminal, SLURM's SIGUSR1) ends the jobs that it
    started.

    Args:
        work: picklable, by name.
        folder: takes the logs.
        launcher: one of `LAUNCHERS`.
        parameters: submitit's, e.g. `slurm_partition`, `timeout_min`, `gpus_per_node`.
        name: of the jobs in SLURM's queue.
        at_once: jobs that are submitted at the same time; all by default.
        grace_seconds: so long jobs on this machine, which save their work on SIGTERM, are waited for.
        ended: is told of each job as it ends.

    Raises:
        ConfigError: an unknown launcher or parameter, or SLURM is not there.
        DataError: another process has launched jobs in this folder, and waits for them.
    """
    executor = _executor(folder, launcher, {"name": name, "timeout_min": TIMEOUT_MINUTES, **parameters})
    environment = _own_gpus(launcher, parameters)
    lock = folder.absolute() / LOCK if launcher == "local" else None
    waiting = dict(work)
    results: dict[str, Result | Failure] = {}
    with locked(folder, LOCK), signals_as_interruptions():
        queue = _Queue(folder) if launcher == "slurm" else None
        running = queue.taken_up(waiting) if queue is not None else {}
        waiting = {job_name: task for job_name, task in waiting.items() if job_name not in running}
        try:
            while waiting or running:
                while waiting and (at_once is None or len(running) < at_once):
                    job_name = next(iter(waiting))
                    # what a terminal sends reaches every process of its session: submitit's would leave with a
                    # traceback, and kill their jobs a second later; they hear the SIGTERM of `_end_local` alone
                    with blocked(TERMINAL_SIGNALS if lock is not None else ()):
                        running[job_name] = executor.submit(Resumable(waiting.pop(job_name), environment, lock))
                    if queue is not None:
                        queue.note(job_name, running[job_name].job_id)
                for job_name in [name for name, job in running.items() if job.done()]:
                    results[job_name] = _result(running.pop(job_name))
                    ended(job_name, results[job_name])
                if running:
                    time.sleep(POLL_SECONDS)
        except BaseException:
            _end_local(running.values(), grace_seconds) if lock is not None else _cancel(running.values())
            raise
    return {job_name: results[job_name] for job_name in work}


def _end_local(jobs: Collection[Any], grace_seconds: float) -> None:
    """Ask jobs of this machine to end, and wait for them; what does not end in time dies as the lock is given up."""
    give_up = time.monotonic() + max(grace_seconds, ENDING_SECONDS)
    for job in jobs:
        if not job.done():
            os.kill(int(job.job_id), signal.SIGTERM)  # a local job's number is its process, which passes it on
    while not all(job.done() for job in jobs) and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
    for job in jobs:
        if not job.done():
            os.kill(int(job.job_id), signal.SIGKILL)


def _cancel(jobs: Collection[Any]) -> None:
    for job in jobs:
        job.cancel()


class _Queue:
    """The numbers of the jobs that SLURM was given, in a file: name -> number, time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / QUEUED
        self.jobs: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                self.jobs = read_json(self.path)
                if not isinstance(self.jobs, dict):
                    raise ValueError("it holds no jobs")
            except ValueError as error:
                raise DataError(
                    f"{self.path} is damaged: see with squeue whether jobs of the last launch are left, then delete it"
                ) from error

    def note(self, name: str, number: str) -> None:
        self.jobs[name] = {"job": number, "submitted": time.time()}
        write_text(self.path, json.dumps(self.jobs, indent=2) + "\n")

    def taken_up(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Jobs of an earlier launch that have not ended."""
        import submitit

        found = {}
        for name in self.jobs.keys() & wanted.keys():
            job: Any = submitit.SlurmJob(self.folder, self.jobs[name]["job"])
            new = time.time() - self.jobs[name]["submitted"] < UNLISTED_SECONDS
            state = job.state.partition(" ")[0]
            if state in ALIVE or (state == "UNKNOWN" and new and not job.paths.result_pickle.exists()):
                log.warning("%s: job %s of an earlier launch is waited for, with its settings", name, job.job_id)
                found[name] = job
        return found


def _executor(folder: Path, launcher: str, parameters: Mapping[str, Any]) -> Any:
    import submitit

    if launcher not in LAUNCHERS:
        raise ConfigError(f"unknown launcher '{launcher}'; choose one of {', '.join(LAUNCHERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise ConfigError(f"submitit refuses the launcher '{launcher}' with {dict(parameters)}: {error}") from error
    return executor


def _own_gpus(launcher: str, parameters: Mapping[str, Any]) -> dict[str, str | None]:
    """submitit hides the GPUs from local jobs that ask for none; ours see what this process sees."""
    if launcher != "local" or "gpus_per_node" in parameters:
        return {}
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}


def _result(job: Any) -> Any:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.result()
    except (FailedJobError, UncompletedJobError) as error:
        last_words = (job.stderr() or "").strip().splitlines()[-LOG_LINES:]
        return Failure(str(error).splitlines()[0], tuple(last_words))
