"""The one training loop: pruning, distillation, masked prediction and finetuning differ in their `Objective` alone.

A step's batch is dealt to processes and, within a process, to micro-batches. Each part's loss is divided by what the
whole batch holds (frames, say), so that gradients simply SUM, over micro-batches by backward and over processes by
one all-reduce: however the batch is dealt out, the numbers are those of one process that computes it whole. That is
also why DistributedDataParallel, which averages, is not used.

A run that stops and goes on ends with the same bits as one that did not, on a CPU with the same number of threads and
processes and the same versions; elsewhere sums are made in another order, and the last bits differ.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, DataError, PrunedUpstreamError
from ..files import make_folder, remove_unfinished
from ..parsing import MALFORMED, shown
from .data import STOPS, Batch, Batches
from .fingerprints import lines_fingerprint
from .guide import write_begun
from .metrics_log import MetricsLog
from .processes import Processes
from .provenance import record_inputs, record_launch
from .recipe import Optimisation, Run, default_keys, flat_keys, key_kinds
from .schedules import Schedule, constant
from .state import STATE_FILE, check_same_inputs, check_same_run, load_state, save_state

log = logging.getLogger(__name__)

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # of SLURM, ahead of the end
EMPTY_BATCHES = 100  # so many in a row without a usable recording, or a whole epoch of them, end a run
# the order in which a step computes its metrics: of those that are not finite the first is the cause
CAUSES = ("distillation", "sparsity", "penalty", "loss", "gradient_norm")
AHEAD_OF_UPDATES = ("distillation", "loss", "gradient_norm")  # what the first step measures before it changes a weight
SHOWN = 5  # recordings named in a message


@dataclass
class ParameterGroup:
    """Parameters that are updated alike.

    replicated: every process computes the whole batch's gradient itself (in `Objective.end_step`). Else each computes
        that of its parts, to be summed and then clipped.
    maximise: ascend instead of descend.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    schedule: Schedule = field(default_factory=constant)
    weight_decay: float = 0.0
    maximise: bool = False
    replicated: bool = False


class Objective(Protocol):
    """What is learned. The trainer calls, at each step, in this order.

    begin_step, then loss and its backward pass for each micro-batch, then end_step, the update, after_step, metrics.
    Whatever is random must follow from `step` and `Batch.seed`, or a resumed run will differ.
    """

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is learned, each group with its learning rate and schedule."""

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Look at this process's whole share of the step. Collective calls belong here and in `end_step`, which every
        process runs, and not in `loss`, which is left out for parts without recordings."""

    def loss(self, part: Batch) -> Tensor:
        """This part's share of the loss: a sum over the part, divided by the whole batch's number of summands."""

    def end_step(self) -> None:
        """After all backward passes: gradients that cannot be summed part by part."""

    def after_step(self) -> None:
        """After the update: projections."""

    def metrics(self) -> dict[str, Tensor]:
        """Scalars of the step, equal on all processes, `loss` and `frames` (that counted) among them."""

    def shown(self) -> Sequence[str]:
        """The metrics beside the progress bar."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class TrainingRecipe(Protocol):
    """A recipe dataclass with at least these sections."""

    @property
    def optimisation(self) -> Optimisation:
        """Its section on steps and rates."""

    @property
    def run(self) -> Run:
        """Its section on the folder and the process."""


class Trainer:
    """Runs an objective over batches, from wherever the run's folder says it stopped.

    Args:
        objective: on its device already.
        batches: of all steps.
        recipe: kept in the folder; a resumed run must have an equal one, but for what `recipe.Kind` lets differ.
        inputs: fingerprints of what else is learned from (teacher, transcripts), by what a message calls them. Those
            of a resumed run must be equal, as must its recordings.
        amend: take changes of amendable keys, from the step at which the folder stands.

    Attributes:
        done: steps that are done.
        dropped: recordings that could not be used when their turn came, with the reason; of all launches and processes.
        amendments: changes of the recipe so far: {"from_step", "key", "before", "after"}.

    Raises:
        ConfigError, CheckpointError, DataError: the folder holds a run of another recipe, a damaged state, or a run on
            other recordings, teacher or transcripts.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        recipe: TrainingRecipe,
        processes: Processes = Processes(),
        *,
        inputs: Mapping[str, str] | None = None,
        amend: bool = False,
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.recipe = recipe
        self.processes = processes
        self.folder = Path(recipe.run.folder)
        self.steps = recipe.optimisation.steps
        self.groups = objective.parameter_groups()
        self.summed = _GradientBuffer([p for group in self.groups if not group.replicated for p in group.parameters])
        self.replicated = _GradientBuffer([p for group in self.groups if group.replicated for p in group.parameters])
        self.optimiser = _adamw(self.groups, recipe.optimisation)
        self._other_inputs = dict(inputs or {})
        if batches.noise is not None:
            self._other_inputs["noise"] = batches.noise.fingerprint
        self.done = 0
        self.dropped: dict[str, str] = {}
        self.amendments: list[dict[str, Any]] = []
        self._amended: dict[str, tuple[Any, Any]] = {}  # by this launch
        self._saved = 0  # steps in the state file
        self._recorded = False  # this launch, in the run's folder
        self._inputs_recorded = False
        self._metrics_bytes = 0
        self._gathered: list[dict[str, Tensor]] = []  # metrics of the steps since the last report
        self._gathering_seconds = 0.0  # that those of earlier launches took
        self._empty = 0  # batches up to the last report, in a row, of which no recording could be used
        self._clock = time.monotonic()
        self._resume(amend)
        self._check_agreement()

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of all that is learned from. A growing corpus is waited for: until the first state is saved
        nothing needs them, but for a run that goes on."""
        return {"recordings": self.batches.corpus.fingerprint, **self._other_inputs}

    def fit(self, until: int | None = None) -> None:
        """Train to the last step. Where the run is complete already, nothing happens.

        Args:
            until: stop after so many steps instead, with the state saved; another `fit` goes on.

        Raises:
            KeyboardInterrupt: Ctrl-C or another of `STOPS` came; the state is saved.
            DataError: no recording of many batches in a row could be read.
            PrunedUpstreamError: a metric is not finite, or the disk is full. The last complete state stays.
        """
        if self.processes.is_main:
            remove_unfinished(make_folder(self.folder))
        end = self.steps if until is None else until
        if self.done == end:
            if self._amended:  # which the next launch need not be asked for again
                self._save(self._metrics_bytes)
            return
        if self.processes.is_main and not self._recorded:
            self._recorded = True
            world = self.processes.world
            record_launch(self.folder, self.recipe, done=self.done, world=world, amended=self._amended)
            write_begun(self.folder)
        stopped = False
        steps = self.batches.loader(self.processes, self.done, end)
        with self._metrics_log() as writer, _stop_signals() as stop, closing(steps):
            self._clock = time.monotonic() - self._gathering_seconds
            for parts in steps:
                self.step(self.done, parts)
                self.done += 1
                due = self.done % self.recipe.run.log_every == 0 or self.done == end
                saves = self.done % self.recipe.run.checkpoint_every == 0 or self.done == end
                stopped = self.processes.any(stop.asked)  # a signal reaches processes at different steps
                if due:
                    self._report(writer)
                if saves or stopped:
                    self._save(writer.bytes_written if writer is not None else 0)
                if stopped:
                    break
        if stopped and self.done < self.steps:
            log.info("stopped after step %d of %d; the same command goes on", self.done, self.steps)
        if stop.asked_by in WARNINGS and callable(signal.getsignal(stop.asked_by)):
            signal.raise_signal(stop.asked_by)  # for whoever listened before us: submitit, which queues the job anew
        if stopped and self.done < self.steps:
            raise KeyboardInterrupt

    def step(self, step: int, parts: Sequence[Batch]) -> None:
        """One update from this process's parts of the batch, at the rates of step `step`."""
        for group, options in zip(self.groups, self.optimiser.param_groups, strict=True):
            options["lr"] = group.learning_rate * group.schedule(step)
        self.summed.zero_()
        self.replicated.zero_()
        with self._autocast():
            self.objective.begin_step(step, parts)
        for part in parts:
            self._warn_of(part.skipped)
            if part.wavs:
                with self._autocast():  # its own context: casts cached by a pass without gradients would carry none
                    loss = self.objective.loss(part)
                loss.backward()
        self.processes.sum_(self.summed.flat)
        self.objective.end_step()
        norm = self.summed.clip_(self.recipe.optimisation.clip_norm)
        self.optimiser.step()
        self.objective.after_step()
        self._gathered.append(self.objective.metrics() | {"gradient_norm": norm})

    def _autocast(self) -> torch.autocast:
        bf16 = self.recipe.optimisation.precision == "bf16"
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=bf16)

    def _report(self, writer: MetricsLog | None) -> None:
        """Means since the last report, over the steps that had recordings; where none had, there is no line. The host
        waits here for the device, and in steps where an objective says so."""
        if not self._gathered:
            return
        names, table = self._checked_metrics()
        self._gathered.clear()
        filled = table[:, names.index("frames")] > 0
        self._count_empty(filled)
        if not filled.any():
            return
        means = dict(zip(names, table[filled].mean(0).tolist(), strict=True))
        if writer is not None:
            now = time.monotonic()
            means["seconds_per_step"] = (now - self._clock) / len(table)
            self._clock, self._gathering_seconds = now, 0.0
            rates = {
                f"learning_rate/{group.name}": options["lr"]
                for group, options in zip(self.groups, self.optimiser.param_groups, strict=True)
            }
            writer.write(self.done, means | rates, shown={name: means[name] for name in self.objective.shown()})

    def _count_empty(self, filled: Tensor) -> None:
        """Of steps (steps since the last report,), which had recordings.

        Raises:
            DataError: none could be used for long.
        """
        (used,) = filled.nonzero(as_tuple=True)
        self._empty = len(filled) - 1 - int(used[-1]) if len(used) else self._empty + len(filled)
        if self._empty and self._empty >= min(EMPTY_BATCHES, self.steps, len(self.batches.plan.epoch(0))):
            raise DataError(
                f"no recording of the last {self._empty} batches could be used; the last one says: "
                + next((f"{name}: {reason}" for name, reason in reversed(self.dropped.items())), "nothing")
            )

    def _checked_metrics(self) -> tuple[list[str], Tensor]:
        """Names, and what was gathered under them: (steps since the last report, names), on the CPU.

        Raises:
            PrunedUpstreamError: a value is not finite.
        """
        names = sorted(self._gathered[0], key=_cause)
        table = torch.stack([torch.stack([row[name].float() for name in names]) for row in self._gathered]).cpu()
        if not table.isfinite().all():
            self._explain_divergence(table, names)
        return names, table

    def _explain_divergence(self, table: Tensor, names: Sequence[str]) -> None:
        """Of metrics (steps since the last report, names), by the first that is not finite at the first such step."""
        row, column = (~table.isfinite()).nonzero()[0].tolist()
        step = self.done - len(table) + row + 1
        if step == 1 and names[column] in AHEAD_OF_UPDATES:
            first = [self.batches.corpus.name(number) for number in self.batches.plan.epoch(0)[0]]
            raise PrunedUpstreamError(
                f"training diverged: {names[column]} is {table[row, column].item()} at step 1, before anything was "
                "learned, so no learning rate is to blame. The model that training begins with overflows, whatever it "
                f"hears, or one of the first recordings is damaged: {', '.join(first[:SHOWN])}"
                f"{' ...' if len(first) > SHOWN else ''}. Try both by hand, as `pruned_upstream.load` shows, and "
                "optimisation.precision=fp32 where it is bf16"
            )
        state = f"{self.folder / STATE_FILE} keeps the run as it was after step {self._saved}"
        raise PrunedUpstreamError(
            f"training diverged: {names[column]} is {table[row, column].item()} at step {step}. "
            f"{state if self._saved else 'No state had been saved yet'}; the same "
            "command goes on from there with a lower optimisation.learning_rate=... or optimisation.precision=fp32, "
            "and --amend"
        )

    def _save(self, metrics_bytes: int) -> None:
        for found in self.processes.gather(self.dropped):
            self.dropped |= found
        names, table = self._checked_metrics() if self._gathered else ([], torch.zeros(0, 0))
        if self.processes.is_main:
            self._check_finite()
            if self._recorded and not self._inputs_recorded:
                self._inputs_recorded = True
                record_inputs(self.folder, self.inputs)
            state = {
                "step": self.done,
                "recipe": flat_keys(self.recipe),
                "inputs": self.inputs,
                "metrics_bytes": metrics_bytes,
                "unreported": {"names": names, "table": table, "seconds": time.monotonic() - self._clock},
                "dropped": self.dropped,
                "amendments": self.amendments,
                "objective": self.objective.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            }
            save_state(self.folder / STATE_FILE, state)
        self._saved, self._metrics_bytes = self.done, metrics_bytes
        self.processes.after_main()

    def _check_finite(self) -> None:
        """An update may leave what no metric has shown yet; it must not take the place of a good state."""
        for group in self.groups:
            if not all(torch.isfinite(parameter).all() for parameter in group.parameters):
                raise PrunedUpstreamError(
                    f"training diverged: the parameters of the group {group.name} are not finite after step "
                    f"{self.done}; the state of step {self._saved} stays, and the same command goes on from there with "
                    f"a lower optimisation.learning_rate=... and --amend"
                )

    def _resume(self, amend: bool) -> None:
        path = self.folder / STATE_FILE
        state = load_state(path, device=self.processes.device)
        if state is None:
            return
        here, defaults = flat_keys(self.recipe), default_keys(self.recipe)
        kinds = key_kinds(type(self.recipe))
        self._amended = check_same_run(self.folder, state["recipe"], here, kinds, defaults=defaults, amend=amend)
        check_same_inputs(self.folder, state["inputs"], self.inputs)
        if state["step"] > self.steps:
            raise ConfigError(
                f"optimisation.steps is {self.steps}, and the run in {self.folder} has done {state['step']} already; "
                "name at least as many"
            )
        try:
            self._take_up(state)
        except MALFORMED as error:
            raise CheckpointError(
                f"the training state {path} is damaged: {type(error).__name__}: {shown(str(error))}; name another "
                f"run.folder, or remove {path} to start over"
            ) from error
        log.info("going on after step %d of %d in %s", self.done, self.steps, self.folder)
        for key, (before, after) in self._amended.items():
            self.amendments.append({"from_step": self.done, "key": key, "before": before, "after": after})
            log.warning("amended: %s is %s from step %d on, and was %s", key, after, self.done + 1, before)

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, given in zip(self.optimiser.param_groups, options, strict=True):
            group.update(given)  # the recipe's, which may have been amended
        self.done = self._saved = state["step"]
        self.dropped, self.amendments = state["dropped"], state["amendments"]
        self._metrics_bytes = state["metrics_bytes"]
        gathered = state["unreported"]
        if gathered and gathered["names"] and not self._amended:  # the mean of a line is of one recipe
            table = gathered["table"].to(self.processes.device)
            self._gathered = [dict(zip(gathered["names"], row, strict=True)) for row in table]
            self._gathering_seconds = gathered["seconds"]

    def _check_agreement(self) -> None:
        """Processes on other machines may see other files."""
        if self.processes.world == 1:
            return
        here = [float(self.done), float(int(lines_fingerprint(sorted(self.inputs.values()))[:8], 16))]
        everywhere = self.processes.sum_(torch.tensor(here, dtype=torch.double, device=self.processes.device))
        if everywhere.tolist() != [self.processes.world * value for value in here]:
            raise ConfigError(
                f"process {self.processes.rank} finds {self.done} finished steps in {self.folder} and "
                f"{len(self.batches.corpus.utterances)} recordings, other processes find something else; run.folder, "
                "data.train and the teacher must lie on a file system that all of them share"
            )

    @contextmanager
    def _metrics_log(self) -> Iterator[MetricsLog | None]:
        if not self.processes.is_main:
            yield None
            return
        with MetricsLog(self.folder, total=self.steps, done=self.done, kept=self._metrics_bytes) as writer:
            yield writer

    def _warn_of(self, skipped: dict[str, str]) -> None:
        for name, reason in skipped.items():
            if name not in self.dropped:
                self.dropped[name] = reason
                log.warning("%s is skipped: %s (%d so far)", name, reason, len(self.dropped))


def _cause(metric: str) -> int:
    return CAUSES.index(metric) if metric in CAUSES else len(CAUSES)


class _GradientBuffer:
    """The gradients of many parameters as one tensor, of which each parameter's `grad` is a view.

    Backward passes add into it, and zeroing, summing over processes and the norm are one operation each. A parameter
    that a step does not reach has a gradient of zero rather than none, whichever process it was not reached in.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        parameters = list(parameters)
        self.flat = torch.cat([torch.zeros_like(p).flatten() for p in parameters]) if parameters else torch.zeros(0)
        views = self.flat.split([p.numel() for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)

    def zero_(self) -> None:
        self.flat.zero_()

    def clip_(self, limit: float | None) -> Tensor:
        """Scale down to a norm of `limit`; the norm before."""
        norm = self.flat.norm()
        if limit is not None:
            self.flat.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm


class _StopRequest:
    """Set by the first stop signal; a Ctrl-C after it takes its usual course."""

    def __init__(self) -> None:
        self.asked_by: signal.Signals | None = None

    @property
    def asked(self) -> bool:
        return self.asked_by is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked_by = self.asked_by or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.info("stopping after this step (%s); Ctrl-C once more stops at once", signal.Signals(number).name)


@contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """Listen to what terminals (SIGINT, SIGHUP), schedulers (SIGTERM, SIGUSR1) and whoever else listens here send."""
    stop = _StopRequest()
    before = {number: signal.getsignal(number) for number in STOPS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]  # nohup
    if not callable(before[signal.SIGUSR2]):
        del before[signal.SIGUSR2]  # SLURM's warning through submitit, where submitit has started us
    for number in before:
        signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def decayed(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices and filters, not to what is a vector but for axes of length 1."""
    return parameter.numel() > max(parameter.shape, default=1)


def _adamw(groups: Sequence[ParameterGroup], options: Optimisation) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [
            {
                "params": group.parameters,
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay,
                "maximize": group.maximise,
            }
            for group in groups
        ],
        betas=(options.betas[0], options.betas[1]),
        eps=options.eps,
        fused=True,
    )
