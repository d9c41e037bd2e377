"""The process in which s3prl runs: it is started afresh, does what `run_downstream.py` does, and tells how far it is.

    python -m pruned_upstream.superb.stage CONNECTION PARENT

`worker.Worker` starts it and sends orders; it may do several short stages of a task one after another, since most of
what a short one takes is the import of torch and s3prl. Each stage is `run_downstream.run` with the arguments that a
user would type, with its output in files, and with four changes that leave every number as it is: checkpoints appear
whole or not at all, steps are reported, data loaders keep the configured number of processes, and SV measures lengths
in threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from .. import after_import
from ..errors import ConfigError
from ..files import atomic_write, disk_fault, write_text
from ..jobs import LOG_LINES
from ..machine import fault, last_words

STDOUT, STDERR = "stdout.txt", "stderr.txt"
STEP, DONE, FAILED = "step", "done", "failed"
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
REPORT_SECONDS = 0.1


def main(arguments: Sequence[str]) -> None:
    """Serve orders until the other end is closed; a stage that fails says why, and ends the process.

    Args:
        arguments: the file descriptor by which orders come and reports go, and the process id of who sends them.
    """
    connection, parent = Connection(int(arguments[0])), int(arguments[1])
    _die_with(parent)
    os.register_at_fork(after_in_child=_die_with_parent)  # data loaders
    changed = False
    while True:
        try:
            order = json.loads(connection.recv_bytes())
        except EOFError:
            return
        folder = Path(order["folder"])
        try:
            _send_output_to(folder, "ab" if order["append"] else "wb")
            if not changed:
                prepare(functools.partial(_report, connection))
                changed = True
            if "probe" in order:
                probe_upstream(**order["probe"])
            else:
                run_s3prl(order["arguments"])
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception as error:
            _say(connection, {FAILED: _described(error, folder)})
            sys.exit(1)
        _say(connection, {DONE: True})


def _described(error: Exception, folder: Path) -> dict[str, Any]:
    """Why the stage failed, in a sentence; a traceback only where neither user nor machine is at fault. It goes into
    the log, too, where there is room for it."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    with contextlib.suppress(OSError):
        print("\n".join(lines), file=sys.stderr, flush=True)
    said = fault(error)
    if said is None and (full := disk_fault(folder)) is not None:  # libraries have words of their own for it
        said = fault(full)
    if said is not None:
        return {"reason": said, "log_tail": []}
    return {"reason": f"{type(error).__name__}: {last_words(error)}", "log_tail": lines[-LOG_LINES:]}


def prepare(report: Any) -> None:
    """Change what has to be changed around s3prl, once per process.

    Args:
        report: is called with the number of optimisation steps made.
    """
    _save_whole_checkpoints()
    after_import.after("s3prl.downstream.runner", functools.partial(_report_steps, report))
    after_import.after("s3prl.downstream.ctc.expert", _keep_loader_workers)
    _preprocess_in_threads()


def run_s3prl(arguments: Sequence[str]) -> None:
    """One run of s3prl's command line."""
    from ..run_downstream import run

    run(list(arguments))


def probe_upstream(name: str, checkpoint: str | None, model_config: str | None, device: str | None, facts: str) -> None:
    """Build the upstream once, where it will compute, and write what it is: hidden states, parameters, device.

    Raises:
        PrunedUpstreamError: there is none of that name, no such device, or it cannot be built.
    """
    import torch
    import yaml

    from ..model.size import nonzero_parameters
    from ..run_downstream import chosen_device
    from ..s3prl_plugin.registry import register

    register()
    from s3prl import hub

    if name not in hub.options():
        raise ConfigError(
            f"s3prl has no upstream '{name}'; `python -c 'from s3prl import hub; print(hub.options())'` lists them"
        )
    place = chosen_device(device)
    upstream = getattr(hub, name)(ckpt=checkpoint, model_config=model_config, refresh=False).to(place).eval()
    with torch.no_grad():
        hidden_states = upstream([torch.randn(16000, device=place)])["hidden_states"]
    found = {
        "layers": len(hidden_states),
        "parameters": sum(parameter.numel() for parameter in upstream.parameters()),
        "nonzero_parameters": nonzero_parameters(upstream),
        "device": place,
    }
    write_text(facts, yaml.safe_dump(found))


def _report(connection: Connection, step: int) -> None:
    _say(connection, {STEP: step})


def _say(connection: Connection, words: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(words).encode())


def _die_with(parent: int) -> None:
    """When a run is killed, its stages and their data loaders must not go on writing into its folder."""
    _die_with_parent()
    if os.getppid() != parent:  # it was killed before its signal was asked for
        os._exit(1)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _send_output_to(folder: Path, mode: str) -> None:
    """Lead file descriptors 1 and 2 into files, for this process and whatever it starts."""
    sys.stdout.flush()
    sys.stderr.flush()
    for name, stream in ((STDOUT, sys.stdout), (STDERR, sys.stderr)):
        with open(folder / name, mode) as file:
            os.dup2(file.fileno(), stream.fileno())
        cast(io.TextIOWrapper, stream).reconfigure(line_buffering=True)  # what was printed before a kill is in the file


def _save_whole_checkpoints() -> None:
    """s3prl resumes from the last states-N.ckpt: a kill while one is written must not leave half of it."""
    import torch

    save = torch.save

    @functools.wraps(save)
    def save_whole(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(file, str | os.PathLike):
            save(obj, file, *args, **kwargs)
            return
        with atomic_write(os.fspath(file)) as temporary:
            save(obj, temporary, *args, **kwargs)

    torch.save = save_whole  # type: ignore[assignment]  # s3prl calls it by that name


def _report_steps(report: Any, runner: Any) -> None:
    """s3prl counts optimisation steps on the progress bar named 'overall'."""

    bar: Any = runner.tqdm

    class ReportingBar(bar):
        last_report = 0.0

        def update(self, n: float = 1) -> bool | None:
            shown = super().update(n)
            now = time.monotonic()
            if (self.desc or "").startswith("overall") and now > self.last_report + REPORT_SECONDS:
                self.last_report = now
                report(int(self.n))
            return shown

    runner.tqdm = ReportingBar


def _keep_loader_workers(expert: Any) -> None:
    """s3prl's ctc/data.py pops `num_workers` from the configuration: every loader but the first then has 12."""
    load = expert.load_dataset
    expert.load_dataset = lambda split, tokenizer, corpus: load(split, tokenizer, dict(corpus))


def _preprocess_in_threads() -> None:
    """SV measures lengths with 12 joblib processes, each of which would import torch anew."""
    import joblib

    joblib.parallel_config(backend="threading", n_jobs=os.cpu_count() or 1)


if __name__ == "__main__":
    main(sys.argv[1:])
