"""What is written for s3prl: csv files and vocabularies, IEMOCAP's folds, each in a folder of its corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.parts import libri2mix
from pruned_upstream.superb import preparation
from pruned_upstream.superb.layout import Data, take_inventory
from pruned_upstream.superb.official import FOLDS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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
    datarc = preparation.prepare("er", Data(tmp_path))["downstream_expert"]["datarc"]
    assert datarc["test_fold"] is None
    folds = Path(datarc["meta_data"])
    assert tmp_path / "cache" in folds.parents
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
        preparation.prepare("er", Data(tmp_path))


def test_two_corpora_and_two_states_of_one_never_share_a_list(tmp_path):
    folders = set()
    for name, lines in (("a", "1-2-0000 GO\n"), ("b", "1-2-0000 GO\n"), ("b", "1-2-0000 STOP IT\n")):
        for split in ("train-clean-100", "dev-clean", "test-clean"):
            chapter = tmp_path / name / "LibriSpeech" / split / "1/2"
            chapter.mkdir(parents=True, exist_ok=True)
            (chapter / "1-2.trans.txt").write_text(lines)
        corpus = preparation.prepare("pr", Data(tmp_path / name))["downstream_expert"]["corpus"]
        assert lines.split()[1] in (Path(corpus["csv_dir"]) / corpus["dev"]).read_text()
        folders.add(corpus["csv_dir"])
    assert len(folders) == 3


STRAY = ("NOTES.txt", ".DS_Store", "train-clean-100/NOTES.txt", "train-clean-100/1/2/notes.bak", "Session1/todo.md")


def test_a_file_that_nobody_reads_changes_nothing(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = tmp_path / "LibriSpeech" / split / "1/2"
        chapter.mkdir(parents=True)
        (chapter / "1-2.trans.txt").write_text("1-2-0000 GO\n")
        soundfile.write(chapter / "1-2-0000.flac", [0.0] * 160, 16000)
    for session in FOLDS:
        recordings = write_labels(tmp_path, session, [f"[1.0 - 2.0]\t{session}_a\tsad\t[2, 2, 2]"])
        (recordings / f"{session}_a.wav").touch()
    before = {task: preparation.prepare(task, Data(tmp_path)) for task in ("pr", "asr", "er")}
    for name in STRAY:
        for corpus in ("LibriSpeech", "IEMOCAP"):
            if (tmp_path / corpus / name).parent.is_dir():
                (tmp_path / corpus / name).write_text("buy milk")
    assert {task: preparation.prepare(task, Data(tmp_path)) for task in before} == before


@pytest.mark.parametrize("name", ["train-100", "train"])  # LibriMix's name today, and that of older versions
def test_diarization_starts_from_librimix(tmp_path, name):
    for split, mixture in {"train": f"mixture_{name}", "dev": "mixture_dev", "test": "mixture_test"}.items():
        metadata = tmp_path / "Libri2Mix/wav16k/max/metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / f"{mixture}_mix_both.csv").write_text(
            "mixture_ID,mixture_path,length\n"
            f"1-2-3_4-5-6,/elsewhere/Libri2Mix/wav16k/max/{split}/mix_both/1-2-3_4-5-6.wav,32000\n"
        )
        turns = tmp_path / "LibriMix/metadata/LibriSpeech" / libri2mix.TURN_FILES[split]
        turns.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"SPEAKER {of} 1 0.5 1.0 <NA> <NA> {who} <NA>\n" for who, of in (("1", "2-3"), ("4", "5-6"))]
        turns.write_text("".join(lines))
    found = take_inventory("sd", Data(tmp_path))
    assert (found.problems, found.counts) == ([], {"train": 1, "dev": 1, "test": 1})
    folder = Path(preparation.prepare("sd", Data(tmp_path))["downstream_expert"]["loaderrc"]["train_dir"])
    assert (folder / "reco2dur").read_text() == "1-2-3_4-5-6 2.0\n"
