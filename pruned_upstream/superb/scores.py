"""The two numbers that go by the name of SUPERB score.

Both place each task between FBANK (0) and a strong model (1000) and average over the ten tasks:

    score = mean over tasks of 1000 (m_t - fbank_t) / (best_t - fbank_t)

`SUPERB_S` is the papers' superb_s (Wang et al., Interspeech 2023, eq. 6): `best` is WavLM Large, slot filling
counts by F1 alone, and two decimals are printed, the rest cut off. `LEADERBOARD` is the Score of
superbbenchmark.org: `best` was frozen when the leaderboard opened, and slot filling is the mean of F1 and CER.
Error rates fall towards `best`, so one formula serves both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from ..errors import DataError
from .metrics import METRICS, TASK_METRICS

FBANK: dict[str, float] = {
    "pr.per": 82.01,
    "asr.wer": 23.18,
    "ks.acc": 41.38,
    "qbe.mtwv": 0.58,
    "sid.acc": 20.06,
    "sv.eer": 9.56,
    "sd.der": 10.05,
    "ic.acc": 9.65,
    "sf.f1": 69.64,
    "sf.cer": 52.94,
    "er.acc": 48.24,
}

WAVLM_LARGE: dict[str, float] = {
    "pr.per": 3.06,
    "asr.wer": 3.44,
    "ks.acc": 97.86,
    "qbe.mtwv": 8.86,
    "sid.acc": 95.49,
    "sv.eer": 3.77,
    "sd.der": 3.24,
    "ic.acc": 99.31,
    "sf.f1": 92.21,
    "sf.cer": 18.36,
    "er.acc": 70.62,
}

# the best value of each column when the leaderboard opened, recovered from the Scores of 28 of its rows
LEADERBOARD_BEST: dict[str, float] = {
    "pr.per": 3.53,
    "asr.wer": 3.62,
    "ks.acc": 96.66,
    "qbe.mtwv": 7.36,
    "sid.acc": 90.33,
    "sv.eer": 5.11,
    "sd.der": 5.62,
    "ic.acc": 98.76,
    "sf.f1": 89.81,
    "sf.cer": 21.76,
    "er.acc": 67.62,
}


@dataclass(frozen=True)
class Scale:
    """A way to turn eleven metrics into one number.

    Attributes:
        best: the value of each metric that is worth 1000.
        slot_filling: which of its metrics count for slot filling, averaged within the task.
    """

    name: str
    best: Mapping[str, float]
    slot_filling: tuple[str, ...]

    def task_scores(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Points (0 at FBANK, 1000 at `best`) of every task whose counted metrics are all given."""
        scores = {}
        for task in TASK_METRICS:
            keys = self.counted(task)
            if all(key in metrics for key in keys):
                scores[task] = sum(self._points(key, metrics[key]) for key in keys) / len(keys)
        return scores

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """The score over all ten tasks.

        Args:
            metrics: metric key -> value in the papers' unit.

        Raises:
            DataError: a task is missing; a mean over fewer tasks is `partial_mean`, and another number.
        """
        scores = self.task_scores(metrics)
        missing = [task for task in TASK_METRICS if task not in scores]
        if missing:
            raise DataError(f"{self.name} needs all ten tasks; missing are {', '.join(missing)}")
        return sum(scores.values()) / len(scores)

    def counted(self, task: str) -> tuple[str, ...]:
        """The metric keys that count for a task."""
        return tuple(m.key for m in TASK_METRICS[task] if task != "sf" or m.name in self.slot_filling)

    def _points(self, key: str, value: float) -> float:
        return 1000.0 * (value - FBANK[key]) / (self.best[key] - FBANK[key])


SUPERB_S = Scale("superb_s", WAVLM_LARGE, slot_filling=("f1",))
LEADERBOARD = Scale("Score", LEADERBOARD_BEST, slot_filling=("f1", "cer"))


def partial_mean(metrics: Mapping[str, float]) -> float | None:
    """Mean points on superb_s's scale over the tasks that are there; None without any.

    Only comparable with means over the same tasks (`on_tasks`).
    """
    scores = SUPERB_S.task_scores(metrics)
    return sum(scores.values()) / len(scores) if scores else None


def missing_tasks(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Tasks that lack a metric."""
    return tuple(task for task, own in TASK_METRICS.items() if any(m.key not in metrics for m in own))


def on_tasks(metrics: Mapping[str, float], tasks: tuple[str, ...]) -> dict[str, float]:
    """The metrics of these tasks alone."""
    return {key: value for key, value in metrics.items() if METRICS[key].task in tasks}


def truncate(score: float) -> str:
    """Two decimals with the rest cut off, as the paper prints superb_s (895.995 is 895.99)."""
    # rounding to nine decimals first takes back what binary fractions lack of a decimal number
    return str(Decimal(f"{score:.9f}").quantize(Decimal("0.01"), rounding=ROUND_DOWN))
