"""Who is told how far a run of the ten tasks is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..jobs import Failure
    from .protocol import Stage
    from .tasks import Task


class Observer:
    """Is told how far the run is, and shows nothing; whoever wants to show it overrides what it needs.

    `step` is called about five times per second.
    """

    def run_started(self, tasks: Sequence[Task]) -> None:
        """Before the first task."""

    def stage_started(self, task: Task, stage: Stage) -> None:
        """A stage's process has started."""

    def step(self, task: Task, stage: Stage, step: int) -> None:
        """A training is at this step."""

    def stage_ended(self, task: Task, stage: Stage) -> None:
        """The stage's process has ended, well or not."""

    def task_ended(self, task: Task, failure: Failure | None) -> None:
        """All stages are done, or one has failed."""

    def run_ended(self) -> None:
        """After the last task, also when something was raised."""
