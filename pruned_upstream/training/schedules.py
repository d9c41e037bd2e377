"""How a learning rate moves over a run: functions from the step (0 for the first) to a factor of the peak rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """One for all steps."""
    return partial(_warmup_constant, warmup=0)


def warmup_constant(steps: int, warmup: float) -> Schedule:
    """Linear from 0 over the first `warmup` (a share) of `steps`, then constant."""
    return partial(_warmup_constant, warmup=round(warmup * steps))


def warmup_linear_decay(steps: int, warmup: float) -> Schedule:
    """Linear from 0 over the first `warmup` (a share) of `steps`, then linear to 0 (Wang et al. 2023, section 4.2).

    The first step takes the first rate above 0 and 0 is where the step after the last would be, so that no step
    is spent on a rate of 0.
    """
    return partial(_warmup_linear_decay, steps=steps, warmup=round(warmup * steps))


# names in recipes
AFTER_WARMUP: Mapping[str, Callable[[int, float], Schedule]] = {
    "constant": warmup_constant,
    "linear": warmup_linear_decay,
}


def tri_stage(steps: int, warmup: float, hold: float, final: float) -> Schedule:
    """Linear up, constant, exponential down to `final`; `warmup` and `hold` are shares of `steps`.

    fairseq, optim/lr_scheduler/tri_stage_lr_scheduler.py; its finetuning recipes start from 0.01 of the peak.
    """
    return partial(_tri_stage, steps=steps, warmup=round(warmup * steps), hold=round(hold * steps), final=final)


def delayed(schedule: Schedule, start: int) -> Schedule:
    """0 before step `start`, and from there on what `schedule` says of the step: a part that is frozen at first."""
    return partial(_delayed, schedule=schedule, start=start)


def _delayed(step: int, *, schedule: Schedule, start: int) -> float:
    return schedule(step) if step >= start else 0.0


def _warmup_constant(step: int, *, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _warmup_linear_decay(step: int, *, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / (steps - warmup))


def _tri_stage(step: int, *, steps: int, warmup: int, hold: int, final: float, initial: float = 0.01) -> float:
    if step < warmup:
        return initial + (1 - initial) * step / warmup
    if step < warmup + hold:
        return 1.0
    decayed = (step - warmup - hold) / max(1, steps - warmup - hold)
    return final ** min(1.0, decayed)
