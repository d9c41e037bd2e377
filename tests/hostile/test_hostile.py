"""The short form of the attacks, and each fault that the long one has found as a test of its own kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pruned_upstream.errors import PrunedUpstreamError

ROOT = Path(__file__).parents[2]


def long_form(*, timeout: float | None = None, **sizes: int) -> subprocess.CompletedProcess[str]:
    """`python -m hostile` in a process of its own, since what has computed cannot be forked."""
    command = [sys.executable, "-W", "ignore", "-m", "hostile"]
    for name, size in sizes.items():
        command += [f"--{name}", str(size)]
    paths = f"{ROOT}:{ROOT / 'tests'}"
    return subprocess.run(
        command, env=_environment(PYTHONPATH=paths), capture_output=True, text=True, timeout=timeout, check=False
    )


def test_spoiled_files_of_every_format_end_in_sentences():
    ended = long_form(files=150, kills=0, pairs=0, disks=0, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert "0 escapes" in ended.stdout


@pytest.mark.slow
def test_killed_commands_leave_what_undisturbed_ones_leave():
    ended = long_form(files=0, kills=12, pairs=1, disks=12)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]


RUN_FILES = ("recipe.yaml", "report.json", "launches.json", "metrics.jsonl")


def _read_run(place: Path) -> object:
    from pruned_upstream.report.runs import read_run

    for name, text in zip(RUN_FILES, ("teacher: x\n", "{}", "[]", ""), strict=True):
        if not (place / name).exists():
            (place / name).write_text(text)
    return read_run(place)


def _read_results(place: Path) -> object:
    from pruned_upstream.superb.results import read_results

    return read_results(place)


def _read_state(place: Path) -> object:
    import torch

    from pruned_upstream.training.state import load_state

    return load_state(place / "state.pt", device=torch.device("cpu"))


def _read_checkpoint(place: Path) -> object:
    from pruned_upstream.prediction.experiment import read_checkpoint

    return read_checkpoint(place / "states-1.ckpt")


def _read_words(place: Path) -> object:
    from pruned_upstream.parp.decoding import DecodingSettings

    return DecodingSettings(lm=str(place / "4gram.bin"), words=str(place / "words.txt")).check()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        *((name, _read_run) for name in RUN_FILES),
        ("results.yaml", _read_results),
        ("state.pt", _read_state),
        ("states-1.ckpt", _read_checkpoint),
        ("words.txt", _read_words),
        ("4gram.bin", _read_words),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(20)
    try:
        with pytest.raises(PrunedUpstreamError, match=name):
            read(tmp_path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _give_up(*_: object) -> None:
    raise TimeoutError


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more
