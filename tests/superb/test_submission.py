"""predict.zip: the leaderboard's layout, and every way in which a prediction file can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml

from pruned_upstream.errors import DataError
from pruned_upstream.superb.layout import KEYWORD_CLASSES, Data
from pruned_upstream.superb.official import COUNTS, FOLDS
from pruned_upstream.superb.results import RunResults, TaskResult
from pruned_upstream.superb.submission import PARTS, gather_predictions, write_submission

H5 = b"\x89HDF\r\n\x1a\n"
MIXTURES = ("1-2-3_4-5-6", "7-8-9_10-11-12")
TRIALS = (("id10270/a/00001", "id10271/b/00002"), ("id10271/b/00002", "id10270/a/00001"))


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def data(tmp_path) -> Data:
    """The test sets' lists of all ten tasks, two items each, no audio."""
    root = tmp_path / "corpora"
    write(root / "LibriSpeech/test-clean/1/2/1-2.trans.txt", "1-2-0001 ONE\n1-2-0000 TWO WORDS\n")
    for name in KEYWORD_CLASSES:
        write(root / "speech_commands_test_set_v0.01" / name / "0a_nohash_0.wav", b"")
    write(
        root / "quesst14Database/scoring/language_key_eval.lst",
        "quesst14Database/eval_queries/q1.wav nnenglish\nquesst14Database/eval_queries/q2.wav albanian\n"
        "quesst14Database/eval_queries/q3.wav nnenglish\n",
    )
    write(
        root / "VoxCeleb1/veri_test_class.txt",
        "1 id10001/x/00001.wav\n3 id10001/x/00002.wav\n3 id10002/y-z/00003.wav\n2 id10002/y-z/00004.wav\n",
    )
    write(root / "VoxCeleb1/voxceleb1_test_v2.txt", "".join(f"1 {one}.wav {two}.wav\n" for one, two in TRIALS))
    for mixture in MIXTURES:
        write(root / "diarization/test/wav" / f"{mixture}.wav", b"")
    write(
        root / "fluent_speech_commands_dataset/data/test_data.csv",
        ",path,speakerId\n0,wavs/speakers/s/u2.wav,s\n1,wavs/speakers/s/u1.wav,s\n",
    )
    for name in ("Amy-snips-test-1", "Amy-snips-test-2"):
        write(root / "SNIPS/test" / f"{name}.wav", b"")
    for session in FOLDS:
        meta_data = [{"path": f"{session}/sentences/wav/d/{session}_{i}.wav", "label": "neu"} for i in (1, 2)]
        write(
            root / f"IEMOCAP/meta_data/{session}/test_meta_data.json",
            json.dumps({"labels": {"neu": 0}, "meta_data": meta_data}),
        )
    return Data(root)


@pytest.fixture
def run(tmp_path) -> tuple[Path, RunResults]:
    """A run folder with the predictions of all tasks, as s3prl names and writes them."""
    folder = tmp_path / "run"
    write(folder / "pr/test-hyp.ark", "1-2-0000 T UW\n1-2-0001 \n")
    write(folder / "asr/test-clean-noLM-hyp.ark", "1-2-0000 TWO\n1-2-0001 ONE\n")
    lines = [f"{name}-0a_nohash_0.wav yes\n" for name in reversed(KEYWORD_CLASSES)]
    write(folder / "ks/test_predict.txt", "".join(lines))
    scores = "".join(f'<term file="doc{i}" score="{i}.5" decision="NO"/>' for i in (1, 2))
    queries = "".join(f'<detected_termlist termid="{name}">{scores}</detected_termlist>' for name in ("q1", "q3"))
    write(folder / "qbe/layer_5/benchmark.stdlist.xml", f'<stdlist language="english">{queries}</stdlist>')
    write(folder / "sid/test_predict.txt", "id10001-x-00002 id10001\nid10002-y-z-00003 id11251\n")
    trials = [
        f"{one}_{two} {score}\n".replace("/", "-") for (one, two), score in zip(TRIALS, (0.5, -1e-3), strict=True)
    ]
    write(folder / "sv/test_predict.txt", "".join(trials))
    for mixture in MIXTURES:
        write(folder / f"sd/scoring/predictions/{mixture}.h5", H5 + mixture.encode())
    write(folder / "sd/frame_shift", "320\n")
    write(folder / "ic/test_predict.csv", "u2,activate,lights,kitchen\nu1,bring,shoes,none\n")
    write(folder / "sf/test-hyp.ark", "Amy-snips-test-1 A\nAmy-snips-test-2 B-x C E-x\n")
    for number, session in enumerate(FOLDS, start=1):
        write(folder / f"er/fold{number}/test_fold{number}_predict.txt", f"{session}_1 neu\n{session}_2 ang\n")
    metrics = {"pr": "per", "asr": "wer", "qbe": "mtwv", "sv": "eer", "sd": "der"}
    tasks = {
        task: TaskResult({metrics.get(task, "acc"): 50.0}, official=True, folders=(task,))
        for task in ("pr", "asr", "ks", "sid", "sv", "sd", "ic")
    }
    tasks["qbe"] = TaskResult({"mtwv": 5.0}, official=True, folders=("qbe/layer_5",))
    tasks["sf"] = TaskResult({"f1": 50.0, "cer": 50.0}, official=True, folders=("sf",))
    tasks["er"] = TaskResult({"acc": 50.0}, official=True, folders=tuple(f"er/fold{i}" for i in range(1, 6)))
    size = dict(parameters=26, nonzero_parameters=25, macs=(1, 2, 3, 4), profiler_macs=(1, 2, 3, 3))
    return folder, RunResults("ours", "pruned_wavlm", **size, tasks=tasks)


def test_a_whole_run_is_collected_in_the_leaderboards_layout(run, data):
    submission = gather_predictions(*run, data=data)
    assert submission.missing == {} and submission.remarks == []
    assert sorted(submission.files) == [
        "asr_public/predict.ark",
        "er_fold1_public/predict.txt",
        "er_fold2_public/predict.txt",
        "er_fold3_public/predict.txt",
        "er_fold4_public/predict.txt",
        "er_fold5_public/predict.txt",
        "ic_public/predict.csv",
        "ks_public/predict.txt",
        "pr_public/predict.ark",
        "qbe_public/benchmark.stdlist.xml",
        "sd_public/frame_shift",
        "sd_public/scoring/predictions/1-2-3_4-5-6.h5",
        "sd_public/scoring/predictions/7-8-9_10-11-12.h5",
        "sf_public/predict.ark",
        "sid_public/predict.txt",
        "sv_public/predict.txt",
    ]
    folder, _ = run
    assert submission.files["pr_public/predict.ark"] == (folder / "pr/test-hyp.ark").read_bytes()
    assert submission.files["ic_public/predict.csv"] == (folder / "ic/test_predict.csv").read_bytes()


def test_keywords_are_sorted_and_everything_else_keeps_its_order(run, data):
    submission = gather_predictions(*run, data=data)
    keywords = submission.files["ks_public/predict.txt"].decode().splitlines()
    assert keywords == sorted(keywords) and len(keywords) == 12
    assert submission.files["ic_public/predict.csv"].decode().startswith("u2,")


def test_decoding_with_a_language_model_is_an_entry_of_its_own(run, data):
    folder, results = run
    assert "asr_lm_public/predict.ark" not in gather_predictions(folder, results, data=data).missing
    write(folder / "asr-lm/test-clean-LM-hyp.ark", "1-2-0000 TWO\n1-2-0001 ONE\n")
    asr = dataclasses.replace(results.tasks["asr"], folders=("asr", "asr-lm"))
    results = dataclasses.replace(results, tasks={**results.tasks, "asr": asr})
    assert "asr_lm_public/predict.ark" in gather_predictions(folder, results, data=data).files


def test_the_same_predictions_give_the_same_bytes(run, data, tmp_path):
    folder, results = run
    paths = []
    for name in ("first", "second"):
        submission = gather_predictions(folder, results, data=data)
        submission.files = dict(reversed(submission.files.items())) if name == "second" else submission.files
        paths.append(write_submission(tmp_path / name, submission, results, name="ours")[0])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == sorted(names) and all(name.startswith("predict/") for name in names)
        assert archive.read("predict/sd_public/frame_shift") == b"320\n"
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_the_sheet_has_what_the_form_asks_for(run, data, tmp_path):
    folder, results = run
    short = dataclasses.replace(results.tasks["ks"], official=False, notes=("200 steps instead of 200000",))
    results = dataclasses.replace(results, tasks={**results.tasks, "ks": short})
    submission = gather_predictions(folder, results, data=data)
    _, sheet = write_submission(
        tmp_path / "out", submission, results, name="Ours", method="pruning", description="d", url="u"
    )
    form = yaml.safe_load(sheet.read_text())
    assert (form["name"], form["method"], form["description"], form["url"]) == ("Ours", "pruning", "d", "u")
    assert form["parameters"] == 26
    assert form["macs"] == {"total": 10, "short": 1, "medium": 2, "long": 3, "longer": 4}
    assert form["macs_by_official_profiler"] == {"total": 9, "short": 1, "medium": 2, "long": 3, "longer": 3}
    assert form["nonzero_parameters"] == 25
    assert "ks_public" in form["included"] and form["missing"] == {}
    assert form["remarks"] == ["ks: not official: 200 steps instead of 200000"]


DAMAGE = {
    "pr_public/predict.ark": ("pr/test-hyp.ark", "1-2-0000 T\n", "1 are absent"),
    "asr_public/predict.ark": ("asr/test-clean-noLM-hyp.ark", "1-2-0000 A\n1-2-0001 B", "cut off"),
    "ks_public/predict.txt": ("ks/test_predict.txt", "yes-0a_nohash_0.wav maybe\n", "is no prediction"),
    "sid_public/predict.txt": ("sid/test_predict.txt", "id10001-x-00002 id10001\n" * 2, "come twice"),
    "sv_public/predict.txt": (
        "sv/test_predict.txt",
        "id10270-a-00001_id10271-b-00002 0.5\nid10271-b-00002_id10270-a-00001 nan\n",
        "is no prediction",
    ),
    "ic_public/predict.csv": ("ic/test_predict.csv", "u1,a,b,c\nu2,a,b,c\n", "not in the order"),
    "sf_public/predict.ark": ("sf/test-hyp.ark", "Amy-snips-test-1 A\nBob-snips-test-2 B\n", "1 are none of its items"),
    "qbe_public/benchmark.stdlist.xml": (
        "qbe/layer_5/benchmark.stdlist.xml",
        "<stdlist><detected",
        "no element|unclosed",
    ),
    "sd_public/scoring/predictions": (f"sd/scoring/predictions/{MIXTURES[0]}.h5", "text", "not an HDF5 file"),
}


@pytest.mark.parametrize("target", DAMAGE)
def test_a_damaged_file_is_left_out_with_its_name_and_the_reason(run, data, target):
    folder, results = run
    source, content, words = DAMAGE[target]
    write(folder / source, content)
    submission = gather_predictions(folder, results, data=data)
    assert list(submission.missing) == [target]
    assert not any(entry.startswith(target) for entry in submission.files)
    assert Path(source).parts[0] in submission.missing[target]
    assert re.search(words, submission.missing[target])
    assert len(submission.files) >= 13, "the other tasks are still there"


STRANGE = {
    "qbe_public/benchmark.stdlist.xml": (
        "qbe/layer_5/benchmark.stdlist.xml",
        b'<?xml version="1.0" encoding="klingon"?><s/>',
    ),
    "sid_public/predict.txt": ("sid/test_predict.txt", "id10001-x-00002 id10001\n".encode("utf-16")),
    "sf_public/predict.ark": ("sf/test-hyp.ark", b"Amy-snips-test-1 caf\xe9\nAmy-snips-test-2 B\n"),
}


@pytest.mark.parametrize("target", STRANGE)
@pytest.mark.parametrize("with_corpora", [True, False])
def test_a_file_of_an_unknown_encoding_is_left_out_with_its_name(run, data, target, with_corpora):
    folder, results = run
    source, content = STRANGE[target]
    write(folder / source, content)
    missing = gather_predictions(folder, results, data=data if with_corpora else None).missing
    assert "cannot be submitted" in missing[target] and Path(source).name in missing[target]


@pytest.mark.parametrize("fold", ["[]", "{}", '{"labels": {"neu": 0}, "meta_data": [1]}', "{"])
def test_metadata_that_are_no_mapping_leave_the_fold_out(run, data, fold):
    folder, results = run
    write(data.corpus("IEMOCAP") / "meta_data" / FOLDS[1] / "test_meta_data.json", fold)
    missing = gather_predictions(folder, results, data=data).missing
    assert "test_meta_data.json" in missing["er_fold2_public/predict.txt"]


def test_queries_scored_against_fewer_recordings_are_refused(run, data):
    folder, results = run
    term = '<term file="doc1" score="1"/>'
    write(
        folder / "qbe/layer_5/benchmark.stdlist.xml",
        f'<s><detected_termlist termid="q1">{term}</detected_termlist><detected_termlist termid="q3"/></s>',
    )
    missing = gather_predictions(folder, results, data=data).missing
    assert "q3 is not scored against the same recordings" in missing["qbe_public/benchmark.stdlist.xml"]


def test_diarization_without_its_frame_shift_is_refused(run, data):
    folder, results = run
    (folder / "sd/frame_shift").unlink()
    missing = gather_predictions(folder, results, data=data).missing
    assert "frame_shift is missing" in missing["sd_public/scoring/predictions"]


def test_four_folds_are_no_emotion_recognition(run, data):
    folder, results = run
    (folder / "er/fold3/test_fold3_predict.txt").unlink()
    submission = gather_predictions(folder, results, data=data)
    assert not any(target.startswith("er_") for target in submission.files)
    assert "test_fold3_predict.txt is missing" in submission.missing["er_fold3_public/predict.txt"]
    assert "all five folds" in submission.missing["er_fold1_public/predict.txt"]


def test_without_the_corpora_the_official_number_of_items_decides(run):
    submission = gather_predictions(*run)
    assert submission.files == {}
    assert "it has 2 predictions, the test set 2620 items" in submission.missing["pr_public/predict.ark"]
    assert "the test set 37720 items" in submission.missing["sv_public/predict.txt"]
    counts = [COUNTS[part.task][part.count] for part in PARTS]
    assert all(counts), "every part has an official number"


def test_a_file_with_the_official_number_of_items_passes_without_the_corpora(run):
    folder, results = run
    write(folder / "asr/test-clean-noLM-hyp.ark", "".join(f"1-2-{i:04d} A\n" for i in range(2620)))
    assert list(gather_predictions(folder, results).files) == ["asr_public/predict.ark"]


def test_tasks_that_were_not_run_are_named(run, data):
    folder, results = run
    results = dataclasses.replace(results, tasks={"ks": results.tasks["ks"]})
    submission = gather_predictions(folder, results, data=data)
    assert list(submission.files) == ["ks_public/predict.txt"]
    assert submission.missing["sv_public/predict.txt"] == "the task was not run, or failed"


def test_nothing_to_submit_is_an_error(tmp_path, run):
    folder, results = run
    empty = dataclasses.replace(results, tasks={})
    with pytest.raises(DataError, match="nothing can be submitted"):
        write_submission(tmp_path / "out", gather_predictions(folder, empty), empty, name="ours")
    assert not (tmp_path / "out").exists()
