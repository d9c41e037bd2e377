"""The forked process that is one run of s3prl.

The parent has imported s3prl already (`preload`), so a run starts at once. The child sends its output to files, makes
checkpoints appear whole or not at all, and reports its steps.

OpenMP's threads do not survive a fork: where the parent has computed with several of them, its child waits for them
forever in its first parallel loop (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=58378). So the parent does no
arithmetic; what it needs computed, it has done `apart`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, PrunedUpstreamError
from ..files import atomic_write, write_text

STDOUT, STDERR = "stdout.txt", "stderr.txt"
VERIFICATION = "sv_voxceleb1"  # s3prl's name
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl

OPENMP_PATIENCE_SECONDS = 60.0  # for one small parallel loop, on a machine that may be busy

_fork = multiprocessing.get_context("fork")
Result = TypeVar("Result")


@dataclass
class Worker:
    """A running child, and the step it has reached (shared memory)."""

    process: BaseProcess
    step: Any

    @property
    def failure(self) -> str | None:
        """Why the ended child failed, or None if it did not."""
        code = self.process.exitcode
        if code == 0:
            return None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (often: the machine ran out of memory)" if -code == signal.SIGKILL else ""
            return f"was killed by {name}{hint}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def preload(downstreams: Iterable[str], clone_downstream: Path | None = None) -> None:
    """Import s3prl and the tasks' code, so that forked children need not; no device is touched.

    Args:
        downstreams: s3prl's names of the tasks.
        clone_downstream: the `downstream` folder of a clone; its readers of PR's and SF's corpora are preferred.

    Raises:
        PrunedUpstreamError: s3prl, or a package that one of the tasks imports, is not installed.
    """
    from ..s3prl_plugin.registry import register

    try:
        register()
        importlib.import_module("s3prl.run_downstream")
        if clone_downstream is not None:
            search_path = importlib.import_module("s3prl.downstream.ctc").__path__
            search_path.insert(1, str(clone_downstream / "ctc"))  # behind the installed package, before ours
        for downstream in downstreams:
            if downstream == VERIFICATION:  # imports pysox, which has the shell look for a program that no task needs
                with _stderr_closed():
                    importlib.import_module("sox")
            importlib.import_module(f"s3prl.downstream.{downstream}.expert")
    except ModuleNotFoundError as error:
        raise PrunedUpstreamError(
            f"the package '{error.name}' is not installed, and s3prl's tasks import it; reinstall pruned_upstream, "
            "which declares what they import"
        ) from error


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Nothing that this process or a child of it writes to file descriptor 2 is seen."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def start(
    work: Callable[[], None],
    *,
    folder: Path,
    append: bool = False,
    threads: int | None = None,
) -> Worker:
    """Fork a child that does `work` with its output in `folder`.

    Args:
        append: go on with the output of a run that was interrupted.
        threads: for torch's operations on the CPU; torch's default if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = _fork.Value("q", 0, lock=False)
    process = _fork.Process(target=_child, args=(work, folder, append, threads, step, os.getpid()))
    process.start()
    return Worker(process, step)


def apart(work: Callable[[], Result]) -> Result:
    """Do `work` in a forked child and return what it returns; its exceptions are raised here."""
    with ProcessPoolExecutor(1, mp_context=_fork, initializer=_die_with_parent) as pool:
        return pool.submit(work).result()


def run_s3prl(arguments: Sequence[str]) -> None:
    """One run of s3prl's command line."""
    from ..run_downstream import main

    main(list(arguments))


def probe_upstream(name: str, checkpoint: str | None, model_config: str | None, report: Path) -> None:
    """Build the upstream once and write what it is: number of hidden states, and of parameters."""
    import torch
    import yaml
    from s3prl import hub

    if name not in hub.options():
        raise ConfigError(
            f"s3prl has no upstream '{name}'; `python -c 'from s3prl import hub; print(hub.options())'` lists them"
        )
    upstream = getattr(hub, name)(ckpt=checkpoint, model_config=model_config, refresh=False).eval()
    with torch.no_grad():
        hidden_states = upstream([torch.randn(16000)])["hidden_states"]
    facts = {"layers": len(hidden_states), "parameters": sum(p.numel() for p in upstream.parameters())}
    write_text(report, yaml.safe_dump(facts))


def _child(
    work: Callable[[], None],
    folder: Path,
    append: bool,
    threads: int | None,
    step: Any,
    parent: int,
) -> None:
    _die_with_parent()
    os.register_at_fork(after_in_child=_die_with_parent)
    if os.getppid() != parent:  # it was killed before we could ask for its signal
        os._exit(1)
    _send_output_to(folder, "ab" if append else "wb")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    _check_openmp()
    with contextlib.ExitStack() as changes:
        changes.enter_context(_whole_checkpoints())
        if "s3prl.downstream.runner" in sys.modules:
            _report_steps(step)
            _keep_loader_workers()
            changes.enter_context(_preprocess_in_threads())
        try:
            work()
        except PrunedUpstreamError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


def _check_openmp() -> None:
    """End with a clear word where the first parallel loop would hang."""
    import torch

    def give_up() -> None:
        print(
            "error: torch's threads hang: the calling process has computed with several threads before it forked; "
            "start the run from a fresh process, or with OMP_NUM_THREADS=1",
            file=sys.stderr,
        )
        os._exit(2)

    watch = threading.Timer(OPENMP_PATIENCE_SECONDS, give_up)
    watch.start()
    torch.ones(1 << 17).exp()  # large enough to be shared among threads
    watch.cancel()


def _die_with_parent() -> None:
    """When a run is killed, its children and theirs must not go on writing, or holding locks, in its folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _send_output_to(folder: Path, mode: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for name, stream in ((STDOUT, 1), (STDERR, 2)):
        with open(folder / name, mode) as file:
            os.dup2(file.fileno(), stream)
    # by line, so that what was printed before a kill is in the file
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


@contextlib.contextmanager
def _whole_checkpoints() -> Iterator[None]:
    """s3prl resumes from the last states-N.ckpt: a kill while one is written must not leave half of it."""
    import torch

    save = torch.save

    @functools.wraps(save)
    def save_whole(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(file, str | os.PathLike):
            save(obj, file, *args, **kwargs)
            return
        with atomic_write(file) as temporary:
            save(obj, temporary, *args, **kwargs)

    torch.save = save_whole
    try:
        yield
    finally:
        torch.save = save


def _report_steps(step: Any) -> None:
    """s3prl counts optimisation steps on the progress bar named 'overall'."""
    runner = sys.modules["s3prl.downstream.runner"]

    class ReportingBar(runner.tqdm):
        def update(self, n: float = 1) -> bool | None:
            shown = super().update(n)
            if (self.desc or "").startswith("overall"):
                step.value = int(self.n)
            return shown

    runner.tqdm = ReportingBar


def _keep_loader_workers() -> None:
    """s3prl's ctc/data.py pops `num_workers` from the configuration: every loader but the first then has 12."""
    expert = sys.modules.get("s3prl.downstream.ctc.expert")
    if expert is not None:
        load = expert.load_dataset
        expert.load_dataset = lambda split, tokenizer, corpus: load(split, tokenizer, dict(corpus))


def _preprocess_in_threads() -> contextlib.AbstractContextManager:
    """SV measures lengths with 12 joblib processes, each of which would import torch anew."""
    import joblib

    return joblib.parallel_config(backend="threading", n_jobs=os.cpu_count() or 1)
