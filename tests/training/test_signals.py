"""Whatever asks a run to end, terminal or scheduler, finds it saved; what a launcher started ends with it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training.launching import ROOT, launch, read_metrics, read_state

from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import save_recipe

PATIENT = {"optimisation.steps": 8, "run.checkpoint_every": 1000, "run.log_every": 1000}
ENDLESS = PATIENT | {"optimisation.steps": 1_000_000}


@contextmanager
def sent_after(number: int, steps: int) -> Iterator[None]:
    """A signal comes while this process trains, within a step."""
    step, done = Trainer.step, itertools.count(1)

    def interrupted(trainer: Trainer, index: int, parts) -> None:
        step(trainer, index, parts)
        if next(done) == steps:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        yield


@contextmanager
def handled(number: int, handler) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_it_saves_and_stops(recipe, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), sent_after(number, 3):
        run_prune(recipe(**PATIENT))
    assert read_state(tmp_path / "run")["step"] == 3
    assert signal.getsignal(number) is before


def test_who_ignores_the_end_of_the_terminal_goes_on(recipe) -> None:
    """nohup."""
    with handled(signal.SIGHUP, signal.SIG_IGN), sent_after(signal.SIGHUP, 2):
        assert run_prune(recipe(**PATIENT)).exists()


def test_a_launcher_that_listens_hears_the_warning_when_all_is_saved(recipe, tmp_path: Path) -> None:
    """submitit, which queues a job of SLURM anew on SIGUSR2 and then leaves."""
    saved: list[int] = []

    def requeue(number: int, frame: object) -> None:
        saved.append(read_state(tmp_path / "run")["step"])
        raise SystemExit

    with handled(signal.SIGUSR2, requeue), pytest.raises(SystemExit), sent_after(signal.SIGUSR2, 5):
        run_prune(recipe(**PATIENT))
    assert saved == [5]


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.05)


def test_torchrun_gives_up_within_its_30_seconds_and_all_is_saved(recipe, tmp_path: Path) -> None:
    """However rarely the run reports. SIGTERM comes to torchrun, which passes it on."""
    run = tmp_path / "run"
    process = launch(recipe(**ENDLESS), folder=tmp_path, processes=2)
    wait_for(lambda: (run / "metrics.jsonl").exists(), process)
    time.sleep(1.0)  # it learns
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 30, output
    assert process.returncode != 0
    state = read_state(run)
    assert 0 < state["step"] < 1_000_000 and state["step"] % 1000
    assert len(state["unreported"]["table"]) == state["step"] % 1000
    assert all(row["step"] % 1000 == 0 for row in read_metrics(run))


def test_a_sweep_ends_its_points_and_they_are_saved(recipe, tmp_path: Path) -> None:
    save_recipe(recipe(**ENDLESS | {"run.folder": str(tmp_path / "sweep")}), tmp_path / "tiny.yaml")
    command = [sys.executable, "-m", "pruned_upstream.cli", "sweep", str(tmp_path / "tiny.yaml"), "--seeds", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    point = tmp_path / "sweep" / "seed-0"
    wait_for(lambda: (point / "metrics.jsonl").exists(), process)
    holder = int((point / ".lock").read_text().split()[1])
    time.sleep(1.0)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in output
    assert 0 < read_state(point)["step"] < 1_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(holder, 0)
