"""The tasks as jobs, one per task: on SLURM, or as processes of this machine (`jobs.py`).

Every job is `running.run` on its own task, in the same run folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from ..jobs import Failure, run_jobs
from .running import Report, Settings, claim, collect_results, is_finished, run
from .tasks import select


def launch(settings: Settings, launcher: str, parameters: Mapping[str, str | int]) -> Report:
    """Submit a job for each task that is not finished, and wait for all of them.

    When this process is killed, jobs of this machine end, too; those of SLURM go on, and the same call waits for them.

    Args:
        launcher: "slurm"; "local" for processes of this machine; "debug" for this process.
        parameters: submitit's, e.g. `slurm_partition`, `timeout_min`, `gpus_per_node`.

    Raises:
        ConfigError: an unknown launcher or parameter, or SLURM is not there.
    """
    claim(settings)
    work = {
        task.name: partial(_run_task, dataclasses.replace(settings, tasks=(task.name,)))
        for task in select(settings.tasks)
        if not is_finished(settings.folder / task.name)
    }
    failures: dict[str, Failure] = {}
    for task, result in run_jobs(work, settings.folder / "submitit", launcher, parameters, name="superb").items():
        failures |= {task: result} if isinstance(result, Failure) else result
    return Report(collect_results(settings.folder), failures)


def _run_task(settings: Settings) -> Mapping[str, Failure]:
    return run(settings).failures
