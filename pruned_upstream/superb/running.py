"""Running the tasks of one upstream in one folder, with resume after a kill at any point.

    RUN/
      README.md              what each file is, and how the run goes on (`guide.py`)
      run.yaml               what is measured: upstream, checkpoint and its hash, data
      upstream/              building the upstream once: facts.yaml (layers, parameters), stdout.txt, stderr.txt
      results.yaml           every finished task (`results.py`)
      TASK/
        config.yaml          s3prl's configuration of the task
        results.yaml         the task's result, once it is finished
        STAGE/               one run of s3prl: its experiment folder
          stdout.txt         the metrics, as s3prl prints them
          stderr.txt         progress bars and tracebacks
          finished.yaml      seconds and command line, once it ended well

Stages are `train` and `test`; for QbE `layer-NN/{dev,test}`, for SV `test-STEP`, for ER `foldK/{train,test}`; with a
search for the learning rate `lr-X/train`. The files of a submission lie in the stages that `TaskResult.folders` names:

    pr, sf   test-hyp.ark              ks, sid, sv   test_predict.txt    er   test_foldK_predict.txt
    asr      test-clean-noLM-hyp.ark   ic            test_predict.csv    qbe  benchmark.stdlist.xml
    sd       scoring/predictions/*.h5, frame_shift

A finished task or stage is never run again; a training goes on from its last checkpoint. One run works on a task at a
time (a lock that dies with it), with settings that cannot change under way. Stages are processes of their own
(`stage.py`), started afresh; short ones of a task that follow one another share one (`worker.Workers`). They end with
the run.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import ConfigError, DataError, PrunedUpstreamError
from ..files import locked, make_folder, write_text
from ..jobs import Failure
from ..model.hub import plain_name
from ..parsing import read_mapping, require, shown
from . import configuration
from .guide import write_guide
from .layout import Data, Inventory, take_inventory
from .observer import Observer
from .preparation import prepare
from .protocol import Plan, Stage, StageOutput, StageOutputs, Steps, begin
from .results import FILE_NAME, NAMES, SHA256, RunResults, is_name, read_results, sha256, write_results
from .runner_input import saved_checkpoints
from .tasks import Task, select
from .worker import Worker, Workers

if TYPE_CHECKING:
    from ..model.config import EncoderConfig

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LARGEST_SEED = (1 << 32) - 1  # s3prl seeds numpy, which takes no larger one
SHORT_STEPS = 1000
"""A training of so many steps leaves its process to the task's next stage; it takes about as long as the imports do."""
FINISHED, CONFIG, RUN, FACTS = "finished.yaml", "config.yaml", "run.yaml", "facts.yaml"


@dataclass(frozen=True)
class Settings:
    """What is to be run, and how.

    Attributes:
        folder: the run folder; a run that is there already goes on.
        upstream: s3prl's name of the upstream (`-u`).
        checkpoint: its file (`-k`), or None where the name says it all.
        model_config: its configuration (`-g`), for the few upstreams that want one; for ours, `expert.Options`.
        model: name in tables; by default the checkpoint's, else the upstream's.
        data: the corpora.
        tasks: names of tasks; None for all ten.
        steps: training steps instead of the official numbers; the results are marked.
        short: every task's short training for demonstrations; the results are marked.
        learning_rates: task -> learning rates: one to use, several to choose from on the development set.
        language_model: KenLM file and lexicon for a second WER of ASR.
        device: "cpu", "cuda" or "cuda:N"; None for the GPU where there is one.
        jobs: runs of s3prl side by side.
        threads: CPU threads per run; by default what OMP_NUM_THREADS says, else the CPUs shared among the jobs.
        loader_workers: data loading processes per run, at most; by default as many as CPUs, in short trainings none.
        seed: s3prl's.
    """

    folder: Path
    upstream: str
    data: Data
    checkpoint: Path | None = None
    model_config: Path | None = None
    model: str | None = None
    tasks: tuple[str, ...] | None = None
    steps: int | None = None
    short: bool = False
    learning_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    language_model: tuple[Path, Path] | None = None
    device: str | None = None
    jobs: int = 1
    threads: int | None = None
    loader_workers: int | None = None
    seed: int = 1337

    def __post_init__(self) -> None:
        for name in ("steps", "jobs", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "be at least 1")
        require(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"lie between 0 and {LARGEST_SEED}")
        select(self.tasks)
        for task, rates in self.learning_rates.items():
            select([task])
            above = bool(rates) and all(rate > 0 for rate in rates)
            require(above, f"the list of {task}'s learning rates", rates, "hold numbers above 0")
        for path in (self.checkpoint, self.model_config, *(self.language_model or ())):
            if path is not None and not path.exists():
                raise DataError(f"{path} does not exist")
        for path in self.language_model or ():
            if not path.is_file():
                raise DataError(f"{path} is no file; name the language model's, and its lexicon's")
        if not is_name(self.model_name):
            raise ConfigError(f"the model is called {shown(self.model_name)}; {NAMES}, say one with --name")

    @property
    def model_name(self) -> str:
        """What tables call the model: as the user names it, else by its file, else by the upstream."""
        return self.model or (plain_name(self.checkpoint) if self.checkpoint is not None else self.upstream)

    @property
    def upstream_arguments(self) -> tuple[str, ...]:
        """-u, -k and -g of s3prl's runner."""
        arguments = ["-u", self.upstream]
        if self.checkpoint is not None:
            arguments += ["-k", str(self.checkpoint.absolute())]  # a link into the hub's cache has no ending behind it
        if self.model_config is not None:
            arguments += ["-g", str(self.model_config.resolve())]
        return tuple(arguments)

    @property
    def upstream_deviations(self) -> tuple[str, ...]:
        """Options of our own upstreams change what they compute; other upstreams may need theirs to exist at all."""
        from ..s3prl_plugin.registry import ENTRIES

        if self.model_config is None or self.upstream not in ENTRIES:
            return ()
        return (f"the upstream's options in {self.model_config.name}",)


@dataclass(frozen=True)
class Report:
    """What a call of `run` achieved; `results` also holds tasks that earlier calls finished."""

    results: RunResults
    failures: Mapping[str, Failure]


def run(settings: Settings, observer: Observer | None = None, workers: Workers | None = None) -> Report:
    """Run the tasks; a task that fails does not stop the others.

    Args:
        workers: processes that are there already and stay; by default they come and go with the tasks.

    Raises:
        ConfigError: the folder holds another run.
        DataError: the data of none of the tasks are complete, or the folder is in use.
        PrunedUpstreamError: the upstream cannot be built, or s3prl is not installed.
    """
    observer = observer or Observer()
    claim(settings)
    with contextlib.ExitStack() as context:
        workers = workers or context.enter_context(Workers())
        observer.run_started(select(settings.tasks))
        context.callback(observer.run_ended)
        open_tasks, failures = [], {}
        for task in select(settings.tasks):
            context.enter_context(locked(settings.folder / task.name))
            inventory = take_inventory(task.name, settings.data)
            if inventory.problems:
                failures[task.name] = Failure("; ".join(inventory.problems))
                observer.task_ended(task, failures[task.name])
            else:
                open_tasks.append((task, inventory))
        if open_tasks:
            facts = _upstream_facts(settings, workers)
            runs = []
            for task, inventory in open_tasks:
                try:
                    runs.append(_TaskRun(task, settings, inventory, layers=facts["layers"]))
                except PrunedUpstreamError as error:
                    failures[task.name] = Failure(str(error))
                    observer.task_ended(task, failures[task.name])
            _Scheduler(settings, runs, observer, workers).work()
            failures |= {run.task.name: run.failure for run in runs if run.failure is not None}
    return Report(collect_results(settings.folder), failures)


def collect_results(folder: Path) -> RunResults:
    """Write the run folder's results.yaml from the results of its tasks, and return them.

    Raises:
        DataError: a task's results were damaged, or the folder is no run folder.
    """
    with locked(folder, ".results.lock"):  # what is read must still be all there is when it is written
        results = _collected(folder)
        write_results(folder, results)
        write_guide(folder, read_mapping(folder / RUN), results)
    return results


def _collected(folder: Path) -> RunResults:
    from ..description.macs import official_macs, seen_by_profiler
    from ..model.size import count_parameters

    identity = read_mapping(folder / RUN)
    facts = read_mapping(folder / "upstream" / FACTS) if (folder / "upstream" / FACTS).exists() else {}
    finished = {task.name: read_results(folder / task.name) for task in select(None) if is_finished(folder / task.name)}
    config = _shape(identity["checkpoint"])
    macs = profiler_macs = None
    if config is not None:
        buckets = official_macs(config)
        macs = tuple(bucket.total for bucket in buckets)
        profiler_macs = tuple(seen_by_profiler(config, bucket) for bucket in buckets)
    return RunResults(
        model=identity["model"],
        upstream=identity["upstream"],
        checkpoint=identity["checkpoint"],
        parameters=facts.get("parameters") if config is None else count_parameters(config),
        nonzero_parameters=facts.get("nonzero_parameters"),
        macs=macs,
        profiler_macs=profiler_macs,
        tasks={name: result for part in finished.values() for name, result in part.tasks.items()},
        provenance={key: str(identity[key]) for key in (SHA256, "data", "versions") if identity.get(key)},
    )


def _shape(checkpoint: str | None) -> EncoderConfig | None:
    """What is in the file, where it is one of ours; an ONNX file has no parameters that could be counted otherwise."""
    from ..errors import CheckpointError
    from ..model.checkpoint import read_header

    if checkpoint is None or not Path(checkpoint).exists():
        return None
    try:
        return read_header(checkpoint).config
    except CheckpointError:
        return None  # another toolkit's checkpoint; its MACs are not ours to count


class _TaskRun:
    """One task on its way: its protocol, and the stages that the protocol waits for."""

    def __init__(self, task: Task, settings: Settings, inventory: Inventory, *, layers: int) -> None:
        self.task, self.settings = task, settings
        self.folder = (settings.folder / task.name).resolve()
        self.failure: Failure | None = None
        self.done = False
        self.awaited: dict[str, Stage] = {}
        self.outcomes: dict[str, StageOutput] = {}
        self.plan = self._plan(inventory, layers)

    def _plan(self, inventory: Inventory, layers: int) -> Plan:
        settings, task = self.settings, self.task
        rates = settings.learning_rates.get(task.name, ())
        if len(rates) > 1 and task.dev is None:
            raise ConfigError(f"{task.name} has no development set to choose a learning rate on; give it one at most")
        config, deviations = configuration.resolve(
            task,
            prepare(task.name, settings.data),
            steps=settings.steps,
            lr=rates[0] if len(rates) == 1 else None,
            short=settings.short,
            loader_workers=self._loader_workers(),
        )
        _write_once(self.folder / CONFIG, config, task.name)
        common = ["--seed", str(settings.seed)] + (["--device", settings.device] if settings.device else [])
        loaders = config["downstream_expert"].get("loaderrc", {})
        return Plan(
            task=task,
            folder=self.folder,
            config=self.folder / CONFIG,
            upstream=settings.upstream_arguments,
            common=tuple(common),
            steps=config["runner"].get("total_steps", 0),
            learning_rates=rates if len(rates) > 1 else (),
            layers=layers,
            deviations=(*inventory.deviations(task.name), *deviations, *settings.upstream_deviations),
            lists=inventory.lists,
            scoring=settings.data.corpus("quesst14Database") / "scoring" if task.name == "qbe" else None,
            reference=Path(loaders["test_dir"]) / "rttm" if task.name == "sd" else None,
            language_model=settings.language_model,
        )

    def _loader_workers(self) -> int:
        if self.settings.loader_workers is not None:
            return self.settings.loader_workers
        return 0 if self.settings.short else os.cpu_count() or 1

    def begin(self) -> list[Stage]:
        """The first stages to run; none if the task was finished before."""
        if is_finished(self.folder):
            self.done = True
            return []
        self.protocol: Steps = begin(self.plan)
        return self._advance(None)

    def stage_finished(self, stage: Stage) -> list[Stage]:
        """Note a finished stage; returns what is to be run next."""
        self.outcomes[stage.name] = StageOutput(self.folder / stage.name)
        return self._advance(self.outcomes) if self.outcomes.keys() >= self.awaited.keys() else []

    def fail(self, failure: Failure) -> None:
        self.failure, self.done = failure, True

    def _advance(self, outcomes: StageOutputs | None) -> list[Stage]:
        try:
            while True:
                stages = next(self.protocol) if outcomes is None else self.protocol.send(outcomes)
                self.awaited = {stage.name: stage for stage in stages}
                self.outcomes = {
                    name: StageOutput(self.folder / name)
                    for name in self.awaited
                    if _is_stage_finished(self.folder / name)
                }
                waiting = [stage for name, stage in self.awaited.items() if name not in self.outcomes]
                if waiting:
                    return waiting
                outcomes = self.outcomes
        except StopIteration as ended:
            self._finish(ended.value)
        except PrunedUpstreamError as error:
            self.fail(Failure(str(error)))
        return []

    def _finish(self, result: Any) -> None:
        import dataclasses

        seconds = [read_mapping(path)["seconds"] for path in self.folder.rglob(FINISHED)]
        known = None not in seconds  # it is not where a stage went on after a kill
        result = dataclasses.replace(result, seconds=round(sum(seconds), 1) if known else None)
        identity = read_mapping(self.settings.folder / RUN)
        part = RunResults(
            identity["model"], identity["upstream"], identity["checkpoint"], tasks={self.task.name: result}
        )
        write_results(self.folder, part)
        self.done = True
        collect_results(self.settings.folder)


class _Scheduler:
    """Keeps at most `jobs` stages running and hands their ends to the protocols."""

    def __init__(self, settings: Settings, runs: Sequence[_TaskRun], observer: Observer, workers: Workers) -> None:
        self.settings, self.runs, self.observer, self.workers = settings, runs, observer, workers
        self.queue: deque[tuple[_TaskRun, Stage]] = deque()
        self.running: list[_Running] = []

    def work(self) -> None:
        try:
            for run in self.runs:
                self._enqueue(run, run.begin(), first=False)
            while self.queue or self.running:
                while self.queue and len(self.running) < self.settings.jobs:
                    self._start(*self.queue.popleft())
                self.workers.dismiss()
                multiprocessing.connection.wait([each.worker.connection for each in self.running], POLL_SECONDS)
                for each in list(self.running):
                    each.worker.look()
                    self.observer.step(each.run.task, each.stage, each.worker.step)
                    if each.worker.done or each.worker.failure is not None:
                        self.running.remove(each)
                        self._ended(each)
        finally:
            for each in self.running:
                each.worker.stop()

    def _enqueue(self, run: _TaskRun, stages: Sequence[Stage], *, first: bool = True) -> None:
        # a task's later stages go first: a finished task is worth more than two that are half done
        entries = [(run, stage) for stage in stages]
        self.queue.extendleft(reversed(entries)) if first else self.queue.extend(entries)
        if run.done:
            self.observer.task_ended(run.task, run.failure)

    def _start(self, run: _TaskRun, stage: Stage) -> None:
        folder = run.folder / stage.name
        resumed = bool(stage.steps and saved_checkpoints(folder))
        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
        process = self.workers.take(run.folder, threads=_threads(self.settings))
        process.run(stage.arguments, folder=folder, append=resumed)
        self.running.append(_Running(run, stage, process, None if resumed else time.monotonic()))
        self.observer.stage_started(run.task, stage)

    def _ended(self, ended: _Running) -> None:
        run, stage, process = ended.run, ended.stage, ended.worker
        self.observer.stage_ended(run.task, stage)
        folder = run.folder / stage.name
        if process.done:
            command = " ".join(["run_downstream.py", *stage.arguments])
            seconds = None if ended.began is None else round(time.monotonic() - ended.began, 2)
            _write_yaml(folder / FINISHED, {"seconds": seconds, "command": command})
            if run.failure is None:
                self._enqueue(run, run.stage_finished(stage))
        elif run.failure is None:
            self.queue = deque(entry for entry in self.queue if entry[0] is not run)
            failure = process.failure or Failure("it ended")
            run.fail(Failure(f"{run.task.name}/{stage.name}: {failure.reason}", failure.log_tail))
            self.observer.task_ended(run.task, run.failure)
        if process.done and stage.steps <= SHORT_STEPS:
            self.workers.give_back(process, run.folder)
        else:
            process.stop()


@dataclass(frozen=True)
class _Running:
    """A stage in its process, and when it was begun there; None where it goes on after an earlier launch."""

    run: _TaskRun
    stage: Stage
    worker: Worker
    began: float | None


def _threads(settings: Settings) -> int | None:
    if settings.threads is None and "OMP_NUM_THREADS" in os.environ:
        return None  # torch reads it
    return settings.threads or max(1, (os.cpu_count() or 1) // settings.jobs)


def check_upstream(settings: Settings) -> dict[str, int]:
    """Build the upstream on its device, and leave nothing behind; returns its layers and parameters.

    Raises:
        PrunedUpstreamError: it cannot be built, or there is no such device.
    """
    with tempfile.TemporaryDirectory() as folder, Workers() as workers:
        return _probe(settings, Path(folder), workers)


def _upstream_facts(settings: Settings, workers: Workers) -> dict[str, int]:
    """Layers and parameters of the upstream, measured once per run folder."""
    folder = settings.folder / "upstream"
    if (folder / FACTS).exists():
        return read_mapping(folder / FACTS)
    return _probe(settings, folder, workers)


def _probe(settings: Settings, folder: Path, workers: Workers) -> dict[str, int]:
    """Raises PrunedUpstreamError: it cannot be built; the message ends with the reason."""
    upstream = {
        "name": settings.upstream,
        "checkpoint": str(settings.checkpoint.absolute()) if settings.checkpoint is not None else None,
        "model_config": str(settings.model_config.resolve()) if settings.model_config is not None else None,
        "device": settings.device,
    }
    process = workers.take(folder, threads=_threads(settings))
    try:
        process.probe(upstream, facts=folder / FACTS, folder=folder)
        process.wait()
        if process.failure is not None:
            why = (process.failure.reason, *process.failure.log_tail)[-1]
            raise PrunedUpstreamError(f"the upstream {settings.upstream} cannot be built: {why}")
        facts = read_mapping(folder / FACTS)
    except BaseException:
        process.stop()
        raise
    workers.give_back(process)
    return facts


def claim(settings: Settings) -> None:
    """Write down what the folder measures, or check that it is the same.

    Raises:
        ConfigError: the folder measures something else.
    """
    checkpoint = settings.checkpoint
    identity = {
        "model": settings.model_name,
        "upstream": settings.upstream,
        "checkpoint": str(checkpoint) if checkpoint is not None else None,
        SHA256: sha256(checkpoint) if checkpoint is not None and checkpoint.is_file() else None,
        "model_config": str(settings.model_config) if settings.model_config is not None else None,
        "data": str(settings.data.root.resolve()),
        "seed": settings.seed,
        "versions": _versions(),
    }
    path = make_folder(settings.folder) / RUN
    with locked(settings.folder, ".run.lock"):
        if not path.exists():
            _write_yaml(path, identity)
            write_guide(settings.folder, identity)
            return
    before = read_mapping(path)
    for key in ("upstream", SHA256, "model_config", "data", "seed"):
        if before.get(key) != identity[key]:
            raise ConfigError(
                f"{settings.folder} holds a run with {key} {shown(before.get(key))}, not {shown(identity[key])}; give "
                "another folder"
            )


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("pruned-upstream", "s3prl", "torch", "torchaudio"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def _write_once(path: Path, config: Mapping[str, Any], task: str) -> None:
    """Write a task's configuration, or check that it is the one it was begun with.

    Raises:
        ConfigError: it is another; the message names what differs.
    """
    if path.exists():
        changed = list(configuration.differences(read_mapping(path), dict(config)))
        changed = [change for change in changed if "num_workers" not in change]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise ConfigError(
                f"{task} was begun with other settings in {path.parent}: {changed[0]}{more}; give another folder, or "
                "delete that one to begin anew"
            )
        return
    _write_yaml(path, config)


def is_finished(folder: Path) -> bool:
    """Whether the stage in this folder has been through."""
    return (folder / FILE_NAME).exists()


def _is_stage_finished(folder: Path) -> bool:
    return (folder / FINISHED).exists()


def _write_yaml(path: Path, tree: Mapping[str, Any]) -> None:
    write_text(path, yaml.safe_dump(dict(tree), sort_keys=False, width=120))
