"""From `superb` and from s3prl's own runner to answers, with nothing in between but what a user types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruned_upstream.prediction import load_task
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.running import Settings, run

pytestmark = pytest.mark.slow


def predicted(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def test_every_task_of_a_run_answers_as_its_test_did(tiny_root, model_file, cache, clips, tmp_path):
    pytest.importorskip("s3prl")
    settings = Settings(
        folder=tmp_path / "run",
        upstream="pruned_wavlm",
        checkpoint=model_file,
        data=Data(tiny_root),
        steps=4,
        short=True,
        device="cpu",
        threads=1,
    )
    report = run(settings)
    assert report.failures == {}
    folders = {name: task.folders for name, task in report.results.tasks.items()}
    keywords = clips("speech_commands_test_set_v0.01")
    answers = load_task(tmp_path / "run/ks").predict(keywords)
    expected = predicted(tmp_path / "run" / folders["ks"][0] / "test_predict.txt")
    assert {"-".join(Path(answer.clip).parts[-2:]): answer.best() for answer in answers} == expected
    verifier = load_task(tmp_path / "run/sv")
    by_name = {"-".join(clip.with_suffix("").parts[-3:]): clip for clip in clips("VoxCeleb1/test")}
    for pair, score in predicted(tmp_path / "run" / folders["sv"][0] / "test_predict.txt").items():
        (answer,) = verifier.predict([by_name[name] for name in pair.split("_")])
        assert answer.cosine == pytest.approx(float(score), abs=1e-4)
    for name in folders:
        assert load_task(tmp_path / "run" / name).predict(clips("LibriSpeech/test-clean")[:2]), name


def test_a_task_trained_by_hand_answers(tiny_root, model_file, clips, tmp_path):
    pytest.importorskip("s3prl")
    overrides = {
        "downstream_expert.datarc.speech_commands_root": tiny_root / "speech_commands_v0.01",
        "downstream_expert.datarc.speech_commands_test_root": tiny_root / "speech_commands_test_set_v0.01",
        "downstream_expert.datarc.num_workers": 0,
        **{f"runner.{key}": 2 for key in ("total_steps", "eval_step", "save_step")},
    }
    line = [sys.executable, "-m", "pruned_upstream.run_downstream", "-m", "train", "-u", "pruned_wavlm"]
    line += ["-k", str(model_file), "-d", "speech_commands", "-c", "ks", "-p", str(tmp_path / "ks"), "--device", "cpu"]
    line += ["-o", ",,".join(f"config.{key}={value}" for key, value in overrides.items())]
    ended = subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    testing = clips("speech_commands_test_set_v0.01")
    answers = load_task(tmp_path / "ks").predict(testing)
    assert {"-".join(Path(answer.clip).parts[-2:]): answer.best() for answer in answers} == predicted(
        tmp_path / "ks/test_predict.txt"
    )
