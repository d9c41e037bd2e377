"""What is written for s3prl: IEMOCAP's folds, keyed caches, and SID's and SV's caches out of the installed package."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.superb import preparation, worker
from pruned_upstream.superb.layout import FOLDS, Data


def write_labels(root, session, lines):
    labels = root / "IEMOCAP" / session / "dialog/EmoEvaluation"
    recordings = root / "IEMOCAP" / session / "sentences/wav/dialog"
    labels.mkdir(parents=True)
    recordings.mkdir(parents=True)
    (labels / "dialog.txt").write_text("% [START - END]\tTURN\tEMOTION\n" + "\n".join(lines) + "\n")
    return recordings


def test_emotion_folds_leave_a_session_out_and_merge_excited_into_happy(tmp_path):
    for session in FOLDS:
        names = {f"{session}_b": "exc", f"{session}_a": "sad", f"{session}_c": "fru", f"{session}_lost": "ang"}
        lines = [f"[1.0 - 2.0]\t{name}\t{emotion}\t[2, 2, 2]" for name, emotion in names.items()]
        recordings = write_labels(tmp_path, session, lines)
        for name in names:
            if not name.endswith("lost"):
                (recordings / f"{name}.wav").touch()
    prepared = preparation.prepare("er", Data(tmp_path), tmp_path / "cache")
    datarc = prepared.overrides["downstream_expert"]["datarc"]
    assert datarc["test_fold"] is None
    folds = prepared.cache / "meta_data"
    assert datarc["meta_data"] == str(folds)
    test = json.loads((folds / "Session2/test_meta_data.json").read_text())
    assert test["labels"] == {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
    assert [(entry["path"], entry["label"]) for entry in test["meta_data"]] == [
        ("Session2/sentences/wav/dialog/Session2_a.wav", "sad"),
        ("Session2/sentences/wav/dialog/Session2_b.wav", "hap"),
    ]
    train = json.loads((folds / "Session2/train_meta_data.json").read_text())["meta_data"]
    assert len(train) == 8
    assert not any("Session2" in entry["path"] for entry in train)


def test_a_session_without_usable_labels_is_named(tmp_path):
    for session in FOLDS:
        write_labels(tmp_path, session, [])
    with pytest.raises(DataError, match="Session1"):
        preparation.prepare("er", Data(tmp_path), tmp_path / "cache")


def test_two_corpora_never_share_a_cache(tmp_path):
    folders = set()
    for name, content in (("a", "1"), ("b", "1"), ("b", "22")):
        corpus = tmp_path / name / "fluent_speech_commands_dataset"
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / "file").write_text(content)
        folders.add(preparation.prepare("ic", Data(tmp_path / name), tmp_path / "cache").cache)
    assert len(folders) == 3


def test_s3prls_own_caches_are_led_out_of_the_installed_package(tmp_path, monkeypatch):
    identification, verification = ModuleType("dataset"), ModuleType("dataset")
    monkeypatch.setitem(sys.modules, "s3prl.downstream.voxceleb1.dataset", identification)
    monkeypatch.setitem(sys.modules, "s3prl.downstream.sv_voxceleb1.dataset", verification)
    worker._lead_caches_to(tmp_path)
    assert str(tmp_path) == identification.CACHE_PATH
    assert verification.__file__ == str(tmp_path / "dataset.py")
