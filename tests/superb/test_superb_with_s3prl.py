"""s3prl itself, once: a task trained and tested on a handful of sounds, through everything between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pruned_upstream.superb.layout import KEYWORD_CLASSES, Data
from pruned_upstream.superb.running import Settings, run
from pruned_upstream.superb.worker import STDOUT

pytest.importorskip("s3prl")
soundfile = pytest.importorskip("soundfile")


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
    assert report.results.parameters == 0
    (folder,) = result.folders
    predictions = (settings.folder / folder / "test_predict.txt").read_text().splitlines()
    assert len(predictions) == len(KEYWORD_CLASSES)
    assert "dev acc:" in (settings.folder / "ks/train" / STDOUT).read_text()
