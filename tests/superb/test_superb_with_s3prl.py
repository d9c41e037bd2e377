"""s3prl itself: a task trained and tested on a handful of sounds, through everything between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from pruned_upstream.miniature.demo import TEACHER
from pruned_upstream.superb import running
from pruned_upstream.superb.layout import KEYWORD_CLASSES, Data
from pruned_upstream.superb.running import Settings, run
from pruned_upstream.superb.worker import STDOUT, Workers

pytest.importorskip("s3prl")
soundfile = pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).parents[2]
Found = TypeVar("Found")


def write_tones(root: Path) -> None:
    """Every keyword a pitch of its own; the names fall into s3prl's training and development parts."""
    seconds = np.arange(16000) / 16000
    training, testing = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for number, name in enumerate(KEYWORD_CLASSES):
        tone = 0.3 * np.sin(2 * np.pi * 200 * (number + 1) * seconds)
        if name == "_silence_":
            word, tone = "_background_noise_", np.tile(tone, 2)
        else:
            word = "bird" if name == "_unknown_" else name
        for folder, speakers in ((training / word, "abcdefgh"), (testing / name, "x")):
            folder.mkdir(parents=True)
            for speaker in speakers:
                soundfile.write(folder / f"{speaker}_nohash_0.wav", tone, 16000)


def test_a_task_from_audio_to_result(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tones(tmp_path)
    settings = Settings(
        folder=tmp_path / "run",
        upstream="fbank_no_cmvn",
        data=Data(tmp_path),
        tasks=("ks",),
        steps=4,
        short=True,
        device="cpu",
        threads=1,
    )
    report = run(settings)
    assert report.failures == {}
    result = report.results.tasks["ks"]
    assert 0 <= result.metrics["acc"] <= 100
    assert not result.official
    assert report.results.parameters == report.results.nonzero_parameters == 0
    (folder,) = result.folders
    predictions = (settings.folder / folder / "test_predict.txt").read_text().splitlines()
    assert len(predictions) == len(KEYWORD_CLASSES)
    assert "dev acc:" in (settings.folder / "ks/train" / STDOUT).read_text()


SHORT_KEYWORDS = {"upstream": "fbank_no_cmvn", "tasks": ("ks",), "steps": 4, "short": True, "threads": 1}

# On a machine with a GPU, whoever asks for it first initialises its driver, and no fork of that process may use it:
# s3prl asks while its hub is imported (upstream/log_stft/expert.py).
GUARD = """
import os, sys
from pruned_upstream import after_import

def patch(torch):
    owner = []
    def touch(function):
        def touched(*args, **kwargs):
            if owner and owner[0] != os.getpid() and torch.utils.data.get_worker_info() is None:
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
            owner[:] = [os.getpid()]
            with open(os.environ["CUDA_GUARD"], "a") as log:
                print(*sys.orig_argv[:3], file=log)
            return function(*args, **kwargs)
        return touched
    for name in ("is_available", "device_count", "_lazy_init"):
        setattr(torch.cuda, name, touch(getattr(torch.cuda, name)))

after_import.after("torch", patch)
"""

LAUNCHED = """
import sys
from pathlib import Path
from pruned_upstream.superb.launching import launch
from pruned_upstream.miniature.demo import TEACHER
from pruned_upstream.superb import running
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.running import Settings, run

root, how = Path(sys.argv[1]), sys.argv[2]
settings = Settings(root / "run", data=Data(root / "data"), device="cpu", **{settings})
report = run(settings) if how == "run" else launch(settings, how, {{}})
assert not report.failures, report.failures
print(report.results.tasks["ks"].metrics["acc"])
"""


@pytest.mark.parametrize("how", ["run", "local"])
def test_nobody_but_a_stage_asks_for_cuda(tmp_path, how):
    write_tones(tmp_path / "data")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(GUARD)
    (tmp_path / "launched.py").write_text(LAUNCHED.format(settings=SHORT_KEYWORDS))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]),
        "CUDA_GUARD": str(tmp_path / "asked"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    ended = subprocess.run(
        [sys.executable, tmp_path / "launched.py", tmp_path, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert set((tmp_path / "asked").read_text().splitlines()) == {f"{sys.executable} -m pruned_upstream.superb.stage"}


def shared_and_alone(compute: Callable[..., Found], monkeypatch) -> tuple[Found, Found]:
    """What `compute(form, workers)` finds where one process serves all stages, and where each has its own."""
    with Workers(shared=True) as workers:
        shared = compute("shared", workers)
        assert len(workers.idle) == 1
    monkeypatch.setattr(running, "SHORT_STEPS", -1)
    return shared, compute("alone")


def test_stages_that_share_a_process_compute_what_they_compute_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tones(tmp_path / "data")
    models = {"teacher": {"upstream": "pruned_upstream", "checkpoint": TEACHER}, "fbank": {}}

    def printed(form: str, workers: Workers | None = None) -> list[str]:
        found = []
        for name, model in models.items():
            folder = tmp_path / form / name
            settings = Settings(folder, data=Data(tmp_path / "data"), device="cpu", **SHORT_KEYWORDS | model)
            assert run(settings, workers=workers).failures == {}
            texts = [(folder / "ks" / stage / STDOUT).read_text() for stage in ("train", "test")]
            found += [line for text in texts for line in text.splitlines() if " acc: " in line or " loss: " in line]
            found.append((folder / "ks/test/test_predict.txt").read_text())
        return found

    shared, alone = shared_and_alone(printed, monkeypatch)
    assert shared == alone and len(alone) > 6


@pytest.mark.slow
def test_ten_tasks_in_one_process_leave_the_same_heads_as_each_alone(tmp_path, tiny_root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = {"upstream": "pruned_upstream", "checkpoint": TEACHER}

    def heads_and_metrics(form: str, workers: Workers | None = None) -> dict[str, object]:
        folder = tmp_path / form
        settings = Settings(folder, data=Data(tiny_root), device="cpu", steps=4, short=True, threads=1, **model)
        report = run(settings, workers=workers)
        assert report.failures == {}
        found: dict[str, object] = dict(report.results.metrics)
        for path in sorted(folder.glob("**/states-4.ckpt")):
            states = torch.load(path, weights_only=False)
            found |= {
                f"{path.relative_to(folder)} {part} {name}": tensor
                for part in ("Downstream", "Featurizer")
                for name, tensor in states[part].items()
            }
        return found

    shared, alone = shared_and_alone(heads_and_metrics, monkeypatch)
    assert len(shared) > 100 and shared.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(torch.as_tensor(shared[name]), torch.as_tensor(value)), name


@pytest.mark.gpu
def test_two_tasks_on_a_gpu(tmp_path, monkeypatch):
    from pruned_upstream.miniature import build

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build(tmp_path / "data", ["ks", "pr"], scale="tiny")
    report = run(
        Settings(
            tmp_path / "run",
            upstream="pruned_upstream",
            checkpoint=TEACHER,
            data=Data(tmp_path / "data"),
            tasks=("ks", "pr"),
            steps=4,
            short=True,
            device="cuda",
            jobs=2,
        )
    )
    assert report.failures == {}
    assert set(report.results.tasks) == {"ks", "pr"}
