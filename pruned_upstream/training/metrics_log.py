"""What a run tells while it goes: a progress bar, a plain metrics file and TensorBoard.

metrics.jsonl has one JSON object per line: the step that was just done, then means over the steps since the last line.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ..errors import PrunedUpstreamError

log = logging.getLogger(__name__)

METRICS_FILE, TENSORBOARD = "metrics.jsonl", "tensorboard"
SECONDS_BETWEEN_LINES = 60  # where no terminal shows the bar


class MetricsLog:
    """Writes metrics of the main process; a context manager.

    Args:
        folder: of the run.
        total: steps of the run.
        done: steps done before this launch.
        kept: bytes of metrics.jsonl that belong to them; what a killed launch wrote beyond is cut off.
    """

    def __init__(self, folder: Path, *, total: int, done: int, kept: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / METRICS_FILE
        try:
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed in __exit__)
            self._file.truncate(min(kept, self._file.tell()))
        except OSError as error:
            raise PrunedUpstreamError(f"cannot write {self.path}: {error.strerror}") from error
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1)
        self._bar = Progress(
            BarColumn(bar_width=8),  # all of it fits into 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[shown]}"),
        )
        self._bar.disable = not self._bar.console.is_terminal
        self._task = self._bar.add_task("training", total=total, completed=done, shown="")
        self._spoke = time.monotonic()
        self._total = total

    @property
    def bytes_written(self) -> int:
        """Length of the metrics file, brought to disk."""
        self._flush()
        return self._file.tell()

    def write(self, step: int, metrics: Mapping[str, float], *, shown: Mapping[str, float]) -> None:
        """Report `metrics` after `step` steps; `shown` are the few beside the bar.

        Raises:
            PrunedUpstreamError: the disk is full.
        """
        self._write(json.dumps({"step": step, **metrics}).encode() + b"\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        summary = " ".join(f"{name} {value:.3g}" for name, value in shown.items())
        self._bar.update(self._task, completed=step, shown=summary)
        now = time.monotonic()
        if self._bar.disable and (now - self._spoke > SECONDS_BETWEEN_LINES or step == self._total):
            self._spoke = now
            log.info("step %d of %d  %s", step, self._total, summary)

    def __enter__(self) -> MetricsLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._board.close()
        self._file.close()

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise PrunedUpstreamError(f"cannot write {self.path}: {error.strerror}; make room and run again") from error

    def _flush(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise PrunedUpstreamError(f"cannot write {self.path}: {error.strerror}; make room and run again") from error
