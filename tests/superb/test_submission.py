"""predict.zip: the leaderboard's layout, and every way in which a prediction file can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from pruned_upstream.errors import DataError
from pruned_upstream.superb.layout import KEYWORD_CLASSES, Data
from pruned_upstream.superb.official import COUNTS, FOLDS
from pruned_upstream.superb.results import RunResults, TaskResult
from pruned_upstream.superb.submission import PARTS, gather_predictions, write_submission

h5py = pytest.importorskip("h5py")

MIXTURES = ("1-2-3_4-5-6", "7-8-9_10-11-12")
TRIALS = (("id10270/a/00001", "id10271/b/00002"), ("id10271/b/00002", "id10270/a/00001"))


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_activity(path: Path, values, name: str = "T_hat", **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, **how)


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
        root / "quesst14Database/scoring/language_key_utterances.lst",
        "".join(f"quesst14Database/Audio/doc{i}.wav nnenglish\n" for i in (1, 2)),
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
    for name in ("Emma-snips-test-1", "Emma-snips-test-2", "Salli-snips-test-1"):  # the last is no voice of the test
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
        write_activity(folder / f"sd/scoring/predictions/{mixture}.h5", np.full((30, 2), 0.25, "float32"))
    write(folder / "sd/frame_shift", "320\n")
    write(folder / "ic/test_predict.csv", "u2,activate,lights,kitchen\nu1,bring,shoes,none\n")
    write(folder / "sf/test-hyp.ark", "Emma-snips-test-1 A\nEmma-snips-test-2 B-x C E-x\n")
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
    assert submission.missing == submission.damaged == {} and submission.remarks == []
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


SOURCES = {
    "pr": "pr/test-hyp.ark",
    "asr": "asr/test-clean-noLM-hyp.ark",
    "ks": "ks/test_predict.txt",
    "qbe": "qbe/layer_5/benchmark.stdlist.xml",
    "sid": "sid/test_predict.txt",
    "sv": "sv/test_predict.txt",
    "ic": "ic/test_predict.csv",
    "sf": "sf/test-hyp.ark",
    "er": "er/fold3/test_fold3_predict.txt",
}
TEXTS = [task for task in SOURCES if task != "qbe"]
MIXTURE = f"sd/scoring/predictions/{MIXTURES[0]}.h5"


def complaint(folder: Path, results: RunResults, data: Data | None, *, task: str) -> str:
    """Why nothing was submitted; there is nothing half-written, and all other tasks can be submitted."""
    submission = gather_predictions(folder, results, data=data)
    assert {part.task for part in submission.damaged} == {task}
    with pytest.raises(DataError, match=f"nothing was written, .* leave them out with --without {task}") as refusal:
        write_submission(folder / "out", submission, results, name="ours")
    assert not (folder / "out").exists()
    rest = gather_predictions(folder, results, data=data, without=[task])
    assert rest.damaged == {} and set(rest.missing.values()) == {"left out, as asked"} and len(rest.files) >= 11
    return str(refusal.value)


SPOILED = {
    "it is cut off in the last line": (lambda raw: raw[:-1], "its last line is cut off"),
    "it is empty": (lambda raw: b"", "is empty"),
    "a byte order mark": (lambda raw: b"\xef\xbb\xbf" + raw, "begins with a byte order mark"),
    "UTF-16 with its mark": (lambda raw: raw.decode().encode("utf-16"), "is UTF-16 or UTF-32"),
    "UTF-16 without": (lambda raw: raw.decode().encode("utf-16-le"), "is UTF-16 or UTF-32"),
    "Latin-1": (lambda raw: raw.replace(b"\n", b"\xe9\n", 1), "line 1 is not UTF-8: it holds the byte 0xe9"),
    "a NUL": (lambda raw: raw[:-2] + b"\0" + raw[-2:], r"holds the control character U\+0000"),
    "an escape": (lambda raw: raw[:-1] + b"\x1b[31m\n", r"holds the control character U\+001B"),
    "a line separator": (lambda raw: raw[:-1] + "\u2028\n".encode(), r"holds the control character U\+2028"),
    "one line as on Windows": (lambda raw: raw[:-1] + b"\r\n", "holds a carriage return"),
    "all lines as on an old Mac": (lambda raw: raw.replace(b"\n", b"\r"), "line 1 holds a carriage return"),
    "a line twice": (lambda raw: raw + raw.splitlines(keepends=True)[-1], "names come twice|2 are none|1 are none"),
    "a line less": (lambda raw: b"".join(raw.splitlines(keepends=True)[:-1]), "1 are absent, and 0 are none"),
    "one too many": (lambda raw: raw + b"x" + raw.splitlines(keepends=True)[-1], "0 are absent, and 1 are none"),
    "an empty line": (lambda raw: raw + b"\n", "'' is no prediction of this task"),
    "a name alone": (lambda raw: raw + b"name\n", "'name' is no prediction of this task"),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("task", TEXTS)
def test_a_text_file_that_is_spoiled_ends_the_submission(run, data, task, how):
    folder, results = run
    source, (spoil, words) = folder / SOURCES[task], SPOILED[how]
    source.write_bytes(spoil(source.read_bytes()))
    said = complaint(folder, results, data, task=task)
    assert str(source) in said and re.search(words, said)


@pytest.mark.parametrize(
    ("task", "line", "wrong"),
    [
        ("ks", "yes-0a_nohash_0.wav yes", "maybe"),
        ("sid", "id10001-x-00002 id10001", "id11252"),
        ("sid", "id10001-x-00002 id10001", "id10001\u0661"),
        ("sv", "id10270-a-00001_id10271-b-00002 0.5", "nan"),
        ("sv", "id10270-a-00001_id10271-b-00002 0.5", "1_0"),
        ("sv", "id10270-a-00001_id10271-b-00002 0.5", "1e999"),
        ("ic", "u2,activate,lights,kitchen", "u2,activate,,kitchen"),
        ("ic", "u2,activate,lights,kitchen", "u2,activate,lights"),
        ("er", "Session3_1 neu", "happy"),
    ],
)
def test_a_prediction_that_none_of_the_task_can_mean_is_shown(run, data, task, line, wrong):
    folder, results = run
    source = folder / SOURCES[task]
    spoiled = wrong if task == "ic" else f"{line.partition(' ')[0]} {wrong}"
    source.write_text(source.read_text().replace(line, spoiled))
    assert f"'{spoiled}' is no prediction of this task" in complaint(folder, results, data, task=task)


def test_lines_in_another_order_than_the_list_are_refused(run, data):
    folder, results = run
    lines = (folder / SOURCES["ic"]).read_text().splitlines(keepends=True)
    (folder / SOURCES["ic"]).write_text("".join(reversed(lines)))
    assert "not in the order of the test set's list" in complaint(folder, results, data, task="ic")


def queries(*names: str, terms: str = '<term file="doc1" score="1"/><term file="doc2" score="2"/>') -> str:
    lists = "".join(f'<detected_termlist termid="{name}">{terms}</detected_termlist>' for name in names)
    return f"<stdlist>{lists}</stdlist>"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<stdlist><detected", "cannot be read as XML"),
        ("", "is empty"),
        ('<?xml version="1.0" encoding="klingon"?><stdlist/>', "cannot be read as XML: unknown encoding"),
        ("\ufeff" + queries("q1", "q3"), "begins with a byte order mark"),
        (queries("q1", "q3").replace("stdlist", "s"), "holds a <s>, not a <stdlist>"),
        (queries("q1", "q1", "q3"), "the query q1 comes twice"),
        (queries("q1"), "of the 2 items of the test set 1 are absent"),
        (queries("q1", "q3", "q9"), "0 are absent, and 1 are none of them, e.g. q9"),
        (
            queries("q1", "q3", terms='<term file="doc1" score="1"/>'),
            "2 recordings that are searched 1 are absent",
        ),
        (queries("q1", "q3", terms='<term file="doc1" score="1"/>' * 2), "q1 has two scores for doc1"),
        (queries("q1", "q3", terms='<term file="doc1" score="inf"/>'), "'inf' is not a score"),
        (queries("q1", "q3", terms='<term file="doc1"/>'), "a <term> lacks the attribute score"),
        (queries("q1")[:-10] + '<detected_termlist termid="q3"/></stdlist>', "q3 is not scored against the same"),
    ],
)
def test_searches_that_are_spoiled_end_the_submission(run, data, content, words):
    folder, results = run
    write(folder / SOURCES["qbe"], content)
    said = complaint(folder, results, data, task="qbe")
    assert words in said and SOURCES["qbe"] in said


def test_searches_in_utf_16_are_refused(run, data):
    folder, results = run
    write(folder / SOURCES["qbe"], queries("q1", "q3").encode("utf-16"))
    assert "begins with a byte order mark" in complaint(folder, results, data, task="qbe")


@pytest.mark.parametrize(
    ("values", "how", "words"),
    [
        (np.zeros((0, 2), "float32"), {}, "of the shape (0, 2), not one number for each"),
        (np.zeros(30, "float32"), {}, "of the shape (30,), not"),
        (np.zeros((1, 30, 2), "float32"), {}, "of the shape (1, 30, 2), not"),
        (np.zeros((30, 2), "int64"), {}, "T_hat is int64"),
        (np.full((30, 2), np.nan, "float32"), {}, "not all of its values are probabilities"),
        (np.full((30, 2), 1.5, "float32"), {}, "not all of its values are probabilities"),
        (np.zeros((30, 2), "float32"), {"name": "P"}, "it holds no data set T_hat"),
        (np.zeros((30, 2), "float32"), {"name": "T_hat/x"}, "it holds no data set T_hat"),
        (None, {"shape": (10**9, 2), "chunks": (1000, 2), "dtype": "float32"}, "of the shape (1000000000, 2), not"),
    ],
)
def test_diarization_that_is_spoiled_ends_the_submission(run, data, values, how, words):
    folder, results = run
    write_activity(folder / MIXTURE, values, **how)
    said = complaint(folder, results, data, task="sd")
    assert words in said and MIXTURE in said


def test_a_data_set_that_lies_in_another_file_is_not_followed(run, data):
    folder, results = run
    write_activity(folder / "elsewhere.h5", np.zeros((30, 2), "float32"))
    with h5py.File(folder / MIXTURE, "w") as file:
        file["T_hat"] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "T_hat")
    assert "it holds no data set T_hat" in complaint(folder, results, data, task="sd")


@pytest.mark.parametrize("kept", [0, 8, 900, -1])
def test_diarization_that_is_cut_off_is_refused(run, data, kept):
    folder, results = run
    (folder / MIXTURE).write_bytes((folder / MIXTURE).read_bytes()[:kept])
    assert f"{MIXTURE} is no HDF5 file, or was cut off" in complaint(folder, results, data, task="sd")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "320",
        "0\n",
        "-320\n",
        "320.0\n",
        "nan\n",
        "320\r\n",
        "3_20\n",
        "99999\n",
        "320\n320\n",
        "\u0663\n",
        "x" * 99,
    ],
)
def test_a_frame_shift_is_what_s3prl_writes(run, data, content):
    folder, results = run
    write(folder / "sd/frame_shift", content)
    assert "sd/frame_shift does not hold what s3prl writes there" in complaint(folder, results, data, task="sd")


def test_diarization_without_its_frame_shift_is_refused(run, data):
    folder, results = run
    (folder / "sd/frame_shift").unlink()
    assert "sd/frame_shift cannot be read, and the scorer needs it" in complaint(folder, results, data, task="sd")


@pytest.mark.parametrize("task", TEXTS)
def test_a_file_that_a_finished_task_has_lost_ends_the_submission(run, data, task):
    folder, results = run
    (folder / SOURCES[task]).unlink()
    assert f"{folder / SOURCES[task]} is no file" in complaint(folder, results, data, task=task)


@pytest.mark.parametrize("fold", ["[]", "{}", '{"labels": {"neu": 0}, "meta_data": [1]}', "{"])
def test_metadata_that_are_no_mapping_end_the_submission(run, data, fold):
    folder, results = run
    write(data.corpus("IEMOCAP") / "meta_data" / FOLDS[1] / "test_meta_data.json", fold)
    assert "test_meta_data.json" in complaint(folder, results, data, task="er")


def test_a_test_set_that_is_not_there_is_named(run, data):
    folder, results = run
    (data.corpus("fluent_speech_commands_dataset") / "data/test_data.csv").unlink()
    said = complaint(folder, results, data, task="ic")
    assert "cannot be compared with the test set's own list, which cannot be read" in said and "test_data.csv" in said


def test_four_folds_are_no_emotion_recognition(run, data):
    folder, results = run
    er = dataclasses.replace(results.tasks["er"], folders=results.tasks["er"].folders[:4])
    submission = gather_predictions(folder, dataclasses.replace(results, tasks=results.tasks | {"er": er}), data=data)
    assert not any(entry.startswith("er_") for entry in submission.files) and not submission.damaged
    assert "the results name no folder" in submission.missing["er_fold5_public/predict.txt"]
    assert "all five folds" in submission.missing["er_fold1_public/predict.txt"]


def test_without_the_corpora_the_official_number_of_items_decides(run):
    submission = gather_predictions(*run)
    assert submission.files == {}
    reasons = {part.target: why for part, why in submission.damaged.items()}
    assert "has 2 predictions, officially 2620" in reasons["pr_public/predict.ark"]
    assert "has 2 predictions, officially 37720" in reasons["sv_public/predict.txt"]
    assert "has 2 recordings in each query, officially 2438" in reasons["qbe_public/benchmark.stdlist.xml"]
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
