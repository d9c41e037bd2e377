"""The eleven numbers of the ten SUPERB tasks: what they are called, their unit, and which way is better.

Every number in this package is in the unit the papers print: percent, and maximum term-weighted value x 100.
A metric's key is `task.metric`; a task's metrics stand in the order in which papers print them.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHEST_RATE = 1e6  # percent


@dataclass(frozen=True)
class Metric:
    """One number of one task; `low` and `high` bound what a correct evaluation can give."""

    task: str
    name: str
    title: str
    unit: str
    higher_is_better: bool
    low: float = 0.0
    high: float = 100.0

    @property
    def key(self) -> str:
        """TASK.NAME, as results have it."""
        return f"{self.task}.{self.name}"

    @property
    def arrow(self) -> str:
        """Up if higher is better, else down."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def label(self) -> str:
        """Heading in tables and plots: `QbE MTWV ↑`."""
        task = "QbE" if self.task == "qbe" else self.task.upper()
        return f"{task} {self.title} {self.arrow}"


def _accuracy(task: str) -> Metric:
    return Metric(task, "acc", "Acc", "%", True)


def _error_rate(task: str, name: str) -> Metric:
    # insertions and false alarms count, so these rates may pass 100; what is above the bound was never measured
    return Metric(task, name, name.upper(), "%", False, high=HIGHEST_RATE)


_ALL = (
    _error_rate("pr", "per"),
    _error_rate("asr", "wer"),
    _accuracy("ks"),
    Metric("qbe", "mtwv", "MTWV", "x 100", True),
    _accuracy("sid"),
    Metric("sv", "eer", "EER", "%", False),
    _error_rate("sd", "der"),
    _accuracy("ic"),
    Metric("sf", "f1", "F1", "%", True),
    _error_rate("sf", "cer"),
    _accuracy("er"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}

TASK_METRICS: dict[str, tuple[Metric, ...]] = {
    task: tuple(metric for metric in _ALL if metric.task == task) for task in dict.fromkeys(m.task for m in _ALL)
}
