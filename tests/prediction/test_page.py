"""The page on predictions: its Python runs on tasks that were trained by s3prl's runner."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fresh_clone import blocks

PAGE = Path(__file__).parents[2] / "docs" / "predict.md"

pytest.importorskip("h5py")


def test_predict(trained, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for task in ("ks", "sd"):
        shutil.copytree(trained(task).folder, tmp_path / "runs/superb/compact" / task)
    keywords = clips("speech_commands_test_set_v0.01")
    for clip, name in ((keywords[0], "clip.wav"), (keywords[-1], "other.wav"), (keywords[1], "meeting.wav")):
        shutil.copy(clip, name)
    (block,) = blocks("python", PAGE.read_text(encoding="utf-8"))
    capsys.readouterr()  # of training
    exec(compile(block, "predict.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
