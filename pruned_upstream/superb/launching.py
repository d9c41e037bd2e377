"""The tasks as jobs of a cluster, one a task, through submitit: SLURM, or processes of this machine.

Every job is `running.run` on its own task, in the same run folder; a job that SLURM takes back is queued again and goes
on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import ConfigError, PrunedUpstreamError
from .running import Failure, Report, Settings, collect, run
from .tasks import select

Launcher = Literal["slurm", "local", "debug"]
LAUNCHERS: tuple[Launcher, ...] = ("slurm", "local", "debug")


class TaskJob:
    """Callable that submitit sends to a job; picklable, and resumable after preemption."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self) -> Mapping[str, Failure]:
        return run(self.settings).failures

    def checkpoint(self) -> Any:
        """What submitit submits when SLURM stops the job: the same again, since a run resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launch(settings: Settings, launcher: Launcher, parameters: Mapping[str, str | int]) -> Report:
    """Submit a job for each task and wait for all of them.

    Args:
        launcher: "slurm"; "local" for processes of this machine; "debug" for this process.
        parameters: submitit's, e.g. `slurm_partition`, `timeout_min`, `gpus_per_node`.

    Raises:
        ConfigError: an unknown launcher or parameter, or SLURM is not there.
        PrunedUpstreamError: submitit is not installed.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise PrunedUpstreamError("--launcher needs submitit; `pip install 'pruned_upstream[slurm]'`") from error
    if launcher not in LAUNCHERS:
        raise ConfigError(f"unknown launcher '{launcher}'; choose one of {', '.join(LAUNCHERS)}")

    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=settings.folder / "submitit" / "%j", cluster=launcher)
        executor.update_parameters(**{"name": "superb", "timeout_min": 72 * 60, **parameters})
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise ConfigError(f"submitit refuses the launcher '{launcher}' with {dict(parameters)}: {error}") from error

    tasks = select(settings.tasks)
    jobs = {task.name: executor.submit(TaskJob(dataclasses.replace(settings, tasks=(task.name,)))) for task in tasks}
    failures: dict[str, Failure] = {}
    with _cancelled_on_interrupt(jobs):
        for name, job in jobs.items():
            try:
                failures |= job.result()
            except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
                last_words = (job.stderr() or "").strip().splitlines()[-15:]
                failures[name] = Failure(str(error).splitlines()[0], tuple(last_words))
    return Report(collect(settings.folder), failures)


@contextlib.contextmanager
def _cancelled_on_interrupt(jobs: Mapping[str, Any]) -> Any:
    try:
        yield
    except KeyboardInterrupt:
        for job in jobs.values():
            job.cancel()
        raise
