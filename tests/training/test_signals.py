"""Whatever asks a run to end, terminal or scheduler, finds it saved; what a launcher started ends with it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import random_encoder, tiny_config
from training.conftest import write_noise
from training.launching import ROOT, launch, read_metrics, read_state

from pruned_upstream.model.checkpoint import save
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


def test_processes_that_read_outlive_a_signal_that_comes_twice(recipe, tmp_path: Path) -> None:
    """SLURM and torchrun each send SIGTERM to every process of a group, and the step that is under way needs data."""
    run = tmp_path / "run"
    process = launch(recipe(**ENDLESS | {"data.workers": 2}), folder=tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: len(children.read_text().split()) == 2, process)
    readers = children.read_text().split()
    os.kill(process.pid, signal.SIGSTOP)  # within a step, however slow the machine
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.5)
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in output, output
    assert 0 < read_state(run)["step"] < 1_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(int(readers[0]), 0)


SPEECH = ["data.batch_utterances=4", "data.max_seconds=0.15", "data.workers=0", "run.device=cpu"]
ENDLESSLY = [*SPEECH, "optimisation.steps=1000000", "run.log_every=2", "run.checkpoint_every=1000000"]
TEACHER_SHAPE = {"channels": 16, "layers": 2, "dim": 24, "heads": 4, "ffn": 40, "conv_pos": 8, "conv_pos_groups": 4}
MASKING = {"units": 4, "fit_batches": 2, "front_end_steps": 4, "start": 0.3, "span": 2}
COMMANDS = {
    "distill": ["distill", "demo_distil", *ENDLESSLY],
    "parp": ["parp", "parp_demo", *ENDLESSLY, "data.labels=letters"],
    "pretrain": [
        *["pretrain", "demo_teacher", *ENDLESSLY],
        *[f"shape.{key}={value}" for key, value in TEACHER_SHAPE.items()],
        *[f"masking.{key}={value}" for key, value in MASKING.items()],
    ],
    "sweep": ["sweep", "demo", *ENDLESSLY, "--seeds", "0,1", "--jobs", "2"],
    "one_shot": ["prune", "one_shot", *SPEECH, "repair.seconds=100000", "distillation.teacher_layers=null"],
    "repair": ["repair", "TEACHER", "repair.seconds=100000"],
}
IN_THE_SUITE = {("parp", "SIGTERM"), ("pretrain", "SIGUSR1"), ("sweep", "SIGINT"), ("repair", "SIGHUP")}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


def command_line(command: str, place: Path) -> subprocess.Popen[str]:
    """Start a command that does not end by itself within minutes, as a process group, as a terminal does."""
    teacher = str(place / "teacher.safetensors")
    arguments = [teacher if word == "TEACHER" else word for word in COMMANDS[command]]
    arguments += [f"data.train={place / 'speech'}"] + ([f"teacher={teacher}"] if command != "pretrain" else [])
    arguments += ["--out", str(place / "out.safetensors")] if command == "repair" else [f"run.folder={place / 'run'}"]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "pruned_upstream.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500", "PYTHONUNBUFFERED": "1"},
        stdout=open(place / "said.txt", "w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("command", "name"),
    [
        pytest.param(command, name, marks=[] if (command, name) in IN_THE_SUITE else pytest.mark.slow)
        for command in COMMANDS
        for name in SIGNALS
    ],
)
def test_every_command_ends_with_a_sentence_and_the_same_command_goes_on(tmp_path: Path, command: str, name: str):
    """A signal in the middle comes to all processes of the group: code 130, nothing half written, states saved."""
    for number in range(400 if command in ("one_shot", "repair") else 7):
        write_noise(tmp_path / "speech" / f"{number}.wav", 16_000 if command == "repair" else 2400, seed=number)
        (tmp_path / "speech" / f"{number}.trans.txt").write_text(f"{number} AB A\n")
    save(tmp_path / "teacher.safetensors", random_encoder(tiny_config(num_layers=6)), provenance={"teacher": "x"})
    runs = [tmp_path / "run" / point for point in ("seed-0", "seed-1")] if command == "sweep" else [tmp_path / "run"]
    learns = command not in ("one_shot", "repair")
    reached = [0] * len(runs)
    for launch_number in (0, 1):
        process = command_line(command, tmp_path)
        try:
            wait_for(partial(is_under_way, tmp_path, runs if learns else [], launch_number + 1, reached), process)
            os.killpg(process.pid, signal.Signals[name])
            process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        said = (tmp_path / "said.txt").read_text()
        assert process.returncode == 130, said
        assert "Traceback" not in said and said.count("the same command goes on where it stopped") == 1, said
        assert not list(tmp_path.rglob("*.unfinished")) and not (tmp_path / "out.safetensors").exists()
        if learns:
            steps = [read_state(run)["step"] for run in runs]
            assert all(step > before for step, before in zip(steps, reached, strict=True))
            begun = [read_launches(run)[-1]["from_step"] for run in runs]
            assert begun == reached
            reached = steps


def is_under_way(place: Path, runs: list[Path], launches: int, reached: list[int]) -> bool:
    """All runs are in this launch and beyond the steps that they had reached; without runs, recordings are read."""
    if not runs:
        return "recordings, " in (place / "said.txt").read_text()
    begun = all(len(read_launches(run)) == launches for run in runs)
    return begun and all(last_step(run) > step for run, step in zip(runs, reached, strict=True))


def last_step(run: Path) -> int:
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    whole = text.rpartition("\n")[0].splitlines()
    return int(json.loads(whole[-1])["step"]) if whole else 0


def read_launches(run: Path) -> list[dict[str, Any]]:
    file = run / "launches.json"
    return json.loads(file.read_text()) if file.exists() else []


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
