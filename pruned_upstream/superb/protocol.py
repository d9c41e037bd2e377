"""The official protocol of each task: which runs of s3prl are made, and which number of which run counts.

A protocol is a generator. It yields stages that may run side by side, is sent their outcomes, and returns the task's
result; so it reads like the protocol's description, and knows nothing of processes. Sources: s3prl's
downstream/docs/superb.md, and the scripts named at each protocol.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigError, DataError, PrunedUpstreamError
from . import diarization, mtwv, official
from .official import FOLDS
from .results import TaskResult
from .runner_input import saved_checkpoints, step_of
from .tasks import Reading, Task, checkpoint_stage, layer_stage
from .worker import STDOUT


@dataclass(frozen=True)
class Stage:
    """One run of s3prl.

    Attributes:
        name: folder below the task's folder; also s3prl's experiment folder.
        arguments: s3prl's command line.
        steps: optimisation steps it makes, 0 for an evaluation.
    """

    name: str
    arguments: tuple[str, ...]
    steps: int = 0


@dataclass(frozen=True)
class StageOutput:
    """A stage that ended well."""

    folder: Path

    @property
    def stdout(self) -> str:
        """What the stage printed."""
        return (self.folder / STDOUT).read_text(encoding="utf-8", errors="replace")


StageOutputs: TypeAlias = Mapping[str, StageOutput]
Steps: TypeAlias = Generator[Sequence[Stage], StageOutputs, TaskResult]


@dataclass(frozen=True)
class Plan:
    """Everything a protocol needs to know about this run of a task.

    Attributes:
        task: the task.
        folder: the task's folder in the run folder.
        config: s3prl's configuration, resolved.
        upstream: s3prl's arguments that name the upstream.
        common: s3prl's arguments of every run, `--device` for one.
        steps: optimisation steps, 0 where nothing is trained.
        learning_rates: candidates to choose from; empty to take the configuration's.
        layers: hidden states of the upstream.
        deviations: why the result is not official, as far as known before it runs.
        lists: hashes of the official lists the result rests on.
        scoring: QbE's `scoring` folder.
        reference: SD's RTTM of the test set.
        language_model: KenLM file and lexicon, for a second number of ASR.
    """

    task: Task
    folder: Path
    config: Path
    upstream: tuple[str, ...]
    common: tuple[str, ...] = ()
    steps: int = 0
    learning_rates: tuple[float, ...] = ()
    layers: int = 1
    deviations: tuple[str, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    scoring: Path | None = None
    reference: Path | None = None
    language_model: tuple[Path, Path] | None = None

    def train(self, name: str, *options: str, overrides: Sequence[str] = ()) -> Stage:
        """A training that goes on from its last checkpoint, if there is one."""
        task = ("-d", self.task.downstream, "-c", str(self.config), "-p", str(self.folder / name))
        return Stage(
            name,
            ("-m", "train", "-a", *self.upstream, *task, *options, *_override(overrides), *self.common),
            self.steps,
        )

    def evaluate(self, name: str, checkpoint: Path, *, overrides: Sequence[str] = ()) -> Stage:
        """An evaluation of a checkpoint on the test set; what it writes goes to a folder of its own."""
        where = f"args.expdir={self.folder / name}"
        return Stage(
            name,
            (
                *("-m", "evaluate", "-e", str(checkpoint), "-t", self.task.test_split),
                *_override([where, *overrides]),
                *self.common,
            ),
        )

    def result(
        self,
        metrics: Mapping[str, float],
        folders: Sequence[str],
        *,
        notes: Sequence[str] = (),
        unofficial: Sequence[str] = (),
        details: Mapping[str, str | int | float] | None = None,
    ) -> TaskResult:
        """The task's result, with all reasons why its numbers are not official ones."""
        reasons = [*self.deviations, *unofficial]
        hashes = {f"{official.HASH_OF}{name}": digest for name, digest in self.lists.items()}
        return TaskResult(
            metrics=metrics,
            official=not reasons,
            notes=(*reasons, *notes),
            steps=self.steps or None,
            folders=tuple(f"{self.folder.name}/{name}" for name in folders),
            details={**(details or {}), **hashes},
        )


def begin(plan: Plan) -> Steps:
    """The stages of the plan's task, and in the end its result."""
    return _PROTOCOLS[plan.task.protocol](plan)


def _best_on_dev(plan: Plan) -> Steps:
    """Train, then test the checkpoint that was best on the development set."""
    training = yield from _train(plan, {"": ()})
    checkpoint, unofficial = best_checkpoint(training.folders[""], plan.task)
    stages = [plan.evaluate("test", checkpoint)]
    if plan.language_model is not None and plan.task.name == "asr":
        stages.append(plan.evaluate("test-lm", checkpoint, overrides=_decoder(*plan.language_model)))
    outcomes = yield stages
    details = dict(training.details)
    if "test-lm" in outcomes:
        details["wer with language model"] = plan.task.test[0].last(outcomes["test-lm"].stdout)
    return plan.result(_read(plan, outcomes["test"]), list(outcomes), unofficial=unofficial, details=details)


def _layers(plan: Plan) -> Steps:
    """QbE: search with every hidden state on dev; the best one's test result counts."""

    def search(layer: int, split: str) -> Stage:
        name = layer_stage(layer, split)
        which = ("-l", str(layer), "-t", split, "-d", plan.task.downstream, "-c", str(plan.config))
        return Stage(name, ("-m", "evaluate", *plan.upstream, *which, "-p", str(plan.folder / name), *plan.common))

    outcomes = yield [search(layer, "dev") for layer in range(plan.layers)]
    scored = [_term_weighted_value(plan, outcomes[layer_stage(layer, "dev")], "dev") for layer in range(plan.layers)]
    scores = {layer: value.score for layer, value in enumerate(scored)}
    best = max(scores, key=scores.__getitem__)
    chosen = layer_stage(best, "test")
    outcomes = yield [search(best, "test")]
    tested = _term_weighted_value(plan, outcomes[chosen], "eval")
    substituted = next((value for value in [tested, *scored] if value.unofficial), None)
    return plan.result(
        {"mtwv": 100 * tested.score},
        [chosen],
        unofficial=[substituted.unofficial] if substituted else [],
        details={"layer": best, "dev mtwv": 100 * scores[best], "scorer": (substituted or tested).scorer},
    )


def _checkpoints(plan: Plan) -> Steps:
    """SV: there is no development set; ten saved checkpoints are tested, the lowest EER counts (test_expdir.sh).

    More of them would make the choice on test data, which this is, a larger bias. A shortened training is tested at
    whatever it saved.
    """
    training = yield from _train(plan, {"": ()})
    reading = plan.task.test[0]
    saved = {step_of(path): path for path in saved_checkpoints(training.folders[""])}
    unofficial = []
    if plan.steps == plan.task.steps:
        absent = [step for step in official.TRAINING_CHECKPOINTS if step not in saved]
        unofficial = [f"no checkpoint of step {', '.join(map(str, absent))}"] if absent else []
        saved = {step: saved[step] for step in official.TRAINING_CHECKPOINTS if step in saved}
    stages = {checkpoint_stage(step): path for step, path in saved.items()}
    if not stages:
        raise PrunedUpstreamError(f"{training.folders['']} holds no states-*.ckpt to test; s3prl saved nothing")
    outcomes = yield [plan.evaluate(name, path) for name, path in stages.items()]
    rates = {name: reading.last(outcomes[name].stdout) for name in stages}
    best = min(rates, key=rates.__getitem__)
    return plan.result(
        {reading.metric: rates[best]},
        [best],
        unofficial=unofficial,
        details=training.details | {"checkpoint": stages[best].name, "checkpoints tested": len(stages)},
    )


def _folds(plan: Plan) -> Steps:
    """ER: leave one session out, five times; the mean counts."""
    folds = [session.replace("Session", "fold") for session in FOLDS]
    training = yield from _train(plan, {fold: ("-v", fold) for fold in folds})
    checkpoints, unofficial = {}, []
    for fold in folds:
        checkpoints[fold], why = best_checkpoint(training.folders[fold], plan.task)
        unofficial += [f"{fold}: {reason}" for reason in why]
    outcomes = yield [plan.evaluate(f"{fold}/test", checkpoints[fold]) for fold in folds]
    reading = plan.task.test[0]
    values = {fold: reading.last(outcomes[f"{fold}/test"].stdout) for fold in folds}
    return plan.result(
        {reading.metric: sum(values.values()) / len(values)},
        [f"{fold}/test" for fold in folds],
        unofficial=unofficial,
        details=training.details | values,
    )


def _diarization(plan: Plan) -> Steps:
    """SD: best frame accuracy on dev, then the error rate of the test set's turns (score.sh, see `diarization`)."""
    training = yield from _train(plan, {"": ()})
    checkpoint, unofficial = best_checkpoint(training.folders[""], plan.task)
    outcomes = yield [plan.evaluate("test", checkpoint)]
    folder = outcomes["test"].folder
    if plan.reference is None:
        raise DataError("the diarization test set has no rttm to score against")
    best = diarization.best_error_rate(
        folder / "scoring/predictions",
        plan.reference,
        frame_shift=diarization.read_frame_shift(folder / diarization.FRAME_SHIFT),
    )
    return plan.result(
        {"der": 100 * best.rate},
        ["test"],
        unofficial=unofficial,
        details=training.details | {"threshold": best.threshold, "median": best.median, "scorer": diarization.SCORER},
    )


_PROTOCOLS: Mapping[str, Callable[[Plan], Steps]] = {
    "best_on_dev": _best_on_dev,
    "layers": _layers,
    "checkpoints": _checkpoints,
    "folds": _folds,
    "diarization": _diarization,
}


@dataclass(frozen=True)
class _Training:
    """Variant -> folder of its training, and what was chosen."""

    folders: Mapping[str, Path]
    details: dict[str, str | int | float]


def _train(plan: Plan, variants: Mapping[str, tuple[str, ...]]) -> Generator[Sequence[Stage], StageOutputs, _Training]:
    """Train every variant (ER's folds; one nameless variant elsewhere), with the best of the learning rates on dev."""
    if not plan.learning_rates:
        names = {variant: _join(variant, "train") for variant in variants}
        outcomes = yield [plan.train(names[variant], *options) for variant, options in variants.items()]
        return _Training({variant: outcomes[name].folder for variant, name in names.items()}, {})

    reading = plan.task.dev
    if reading is None:
        raise ConfigError(
            f"{plan.task.name} has no development set to choose a learning rate on; give it one learning rate"
        )
    trials = {
        (lr, variant): plan.train(
            _join(f"lr-{lr:g}", variant, "train"), *options, overrides=[f"config.optimizer.lr={lr}"]
        )
        for lr in plan.learning_rates
        for variant, options in variants.items()
    }
    outcomes = yield list(trials.values())
    reached = {
        lr: sum(_best_on(reading, outcomes[trials[lr, variant].name]) for variant in variants) / len(variants)
        for lr in plan.learning_rates
    }
    best = reading.best(reached.values())
    chosen = next(lr for lr, value in reached.items() if value == best)
    details: dict[str, str | int | float] = {"learning rate": chosen}
    details |= {f"dev {reading.metric} at {lr:g}": value for lr, value in reached.items()}
    return _Training({variant: outcomes[trials[chosen, variant].name].folder for variant in variants}, details)


def _best_on(reading: Reading, outcome: StageOutput) -> float:
    values = reading.all(outcome.stdout)
    if not values:
        raise PrunedUpstreamError(f"{outcome.folder}: s3prl never printed '{reading.label}'; train for more steps")
    return reading.best(values)


def best_checkpoint(folder: Path, task: Task) -> tuple[Path, list[str]]:
    """The checkpoint to test; where s3prl found none worth keeping, the last, and the reason to say so.

    Raises:
        PrunedUpstreamError: there is no checkpoint at all.
    """
    best = folder / str(task.best_checkpoint)
    if best.exists():
        return best, []
    saved = saved_checkpoints(folder)
    if not saved:
        raise PrunedUpstreamError(f"{folder} holds no checkpoint; s3prl saved nothing")
    return saved[-1], [f"no {task.best_checkpoint}: development never beat its start; {saved[-1].name} was tested"]


def _read(plan: Plan, outcome: StageOutput) -> dict[str, float]:
    return {reading.metric: reading.last(outcome.stdout) for reading in plan.task.test}


@dataclass(frozen=True)
class _TermWeightedValue:
    """MTWV of one search, who scored it, and why that makes it not official, if it does."""

    score: float
    scorer: str
    unofficial: str = ""


def _term_weighted_value(plan: Plan, outcome: StageOutput, split: str) -> _TermWeightedValue:
    """The data set's own scorer where it runs, else ours."""
    if plan.scoring is None:
        raise DataError("QbE has no scoring folder to score with")
    truth = f"groundtruth_quesst14_{split}"
    script = plan.scoring / official.SCORERS["qbe"]
    why = "it is not in the scoring folder"
    if script.exists():
        command = [str(script.resolve()), str(outcome.folder.resolve()), truth, str(int(mtwv.MISSING_SCORE))]
        try:
            ended = subprocess.run(command, cwd=plan.scoring, capture_output=True, text=True, check=False)
        except OSError as error:
            why = f"{error.strerror}"
        else:
            if found := re.search(r"maxTWV:\s*(\S+)", ended.stdout):
                return _TermWeightedValue(float(found[1]), f"the data set's {script.name}")
            why = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}, no maxTWV"])[-1]
    return _TermWeightedValue(
        mtwv.score_folder(outcome.folder, plan.scoring / truth),
        "this package's (superb/mtwv.py)",
        f"MTWV by this package's scorer: the data set's {script.name} did not score ({why})",
    )


def _decoder(model: Path, lexicon: Path) -> list[str]:
    arguments = {
        "decoder_type": "kenlm",
        "kenlm_model": model,
        "lexicon": lexicon,
        "unk_weight": "float('-inf')",  # the yaml's `-math.inf`; s3prl evaluates it without importing math
    }
    return [f"config.downstream_expert.datarc.decoder_args.{key}={value}" for key, value in arguments.items()]


def _override(assignments: Sequence[str]) -> tuple[str, ...]:
    """s3prl's `-o`: assignments joined by double commas, each with one equals sign.

    Raises:
        ConfigError: a value that this format cannot carry.
    """
    for assignment in assignments:
        if assignment.count("=") != 1 or ",," in assignment:
            raise ConfigError(f"s3prl cannot take a path with '=' or ',,' in it: {assignment.partition('=')[2]}")
    return ("-o", ",,".join(assignments)) if assignments else ()


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
