"""Each task's answers on the clips of its test set are what s3prl itself predicted for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from pruned_upstream.prediction import load_task, recordings
from pruned_upstream.superb.layout import KEYWORD_CLASSES
from pruned_upstream.superb.official import FOLDS

h5py = pytest.importorskip("h5py")
TOLERANCE = dict(rel=1e-4, abs=1e-4)


def predictions(path: Path, separator: str = " ") -> dict[str, str]:
    lines = path.read_text().splitlines()
    return {name: said for name, _, said in (line.partition(separator) for line in lines)}


def voxceleb_name(clip: Path) -> str:
    return "-".join(clip.with_suffix("").parts[-3:])


def test_keywords(trained, clips):
    expected = predictions(trained("ks").folder / "test_predict.txt")
    testing = clips("speech_commands_test_set_v0.01")
    answers = load_task(trained("ks").folder).predict(testing)
    assert {"-".join(Path(answer.clip).parts[-2:]): answer.best() for answer in answers} == expected
    assert len(expected) >= 12
    for answer in answers:
        (asked,) = answer.probabilities
        assert set(answer.probabilities[asked]) == set(KEYWORD_CLASSES)
        values = list(answer.probabilities[asked].values())
        assert sum(values) == pytest.approx(1, abs=1e-5) and values == sorted(values, reverse=True)


def test_speakers(trained, clips):
    expected = predictions(trained("sid").folder / "test_predict.txt")
    every = {voxceleb_name(clip): clip for clip in clips("VoxCeleb1")}
    answers = load_task(trained("sid").folder).predict([every[name] for name in expected])
    assert [answer.best("speaker") for answer in answers] == list(expected.values())
    assert len(answers[0].probabilities["speaker"]) == 1251


def test_intents(trained, clips):
    expected = predictions(trained("ic").folder / "test_predict.csv", ",")
    every = {clip.stem: clip for clip in clips("fluent_speech_commands_dataset")}
    answers = load_task(trained("ic").folder).predict([every[name] for name in expected])
    said = [",".join(answer.best(asked) for asked in ("action", "object", "location")) for answer in answers]
    assert said == list(expected.values())


def test_emotions(trained, clips):
    of_fold = trained("er", "-v", "fold2")
    expected = predictions(of_fold.folder / "test_fold2_predict.txt")
    every = {clip.stem: clip for clip in clips("IEMOCAP")}
    answers = load_task(of_fold.checkpoint).predict([every[name] for name in expected])
    assert [answer.best() for answer in answers] == list(expected.values())
    assert set(answers[0].probabilities["emotion"]) == {"neu", "hap", "ang", "sad"}


@pytest.mark.parametrize(
    "task, corpus, written",
    [
        ("asr", "LibriSpeech/test-clean", "test-clean-noLM-hyp.ark"),
        ("pr", "LibriSpeech/test-clean", "test-hyp.ark"),
    ],
)
def test_text(trained, clips, task, corpus, written):
    expected = predictions(trained(task).folder / written)
    testing = clips(corpus)
    answers = load_task(trained(task).folder).predict(testing)
    assert {Path(answer.clip).stem: answer.text for answer in answers} == expected
    assert any(expected.values()), "silence would prove nothing"


def test_slots(trained, clips):
    expected = predictions(trained("sf").folder / "test-hyp.ark")
    task = load_task(trained("sf").folder)
    features = task.answerer.features
    for clip in clips("SNIPS/test"):
        with torch.inference_mode():
            raw = task.answerer._best_path(features.of(recordings.read(clip, recordings.plain), clip.stem))
        assert raw == expected[clip.stem]
    assert any(expected.values())


def test_turns(trained, clips):
    task = load_task(trained("sd").folder)
    for clip in clips("diarization/test"):
        with h5py.File(trained("sd").folder / f"scoring/predictions/{clip.stem}.h5") as file:
            expected = file["T_hat"][:]
        activity = task.answerer.activity(recordings.read(clip, recordings.plain), clip.stem)
        assert activity == pytest.approx(expected, **TOLERANCE)


def test_similarity(trained, clips):
    expected = {name: float(score) for name, score in predictions(trained("sv").folder / "test_predict.txt").items()}
    every = {voxceleb_name(clip): clip for clip in clips("VoxCeleb1/test")}
    task = load_task(trained("sv").folder)
    for pair, score in expected.items():
        one, other = pair.split("_")
        (answer,) = task.predict([every[one], every[other]])
        assert answer.cosine == pytest.approx(score, **TOLERANCE)
    three = list(every.values())[:3]
    assert [(answer.clip, answer.other) for answer in task.predict(three)] == [
        (str(three[i]), str(three[j])) for i, j in ((0, 1), (0, 2), (1, 2))
    ]


def test_search_orders_as_s3prl_does(trained, clips, tiny_root):
    """s3prl normalises over the whole set, so all of it is given; and standardises the scores of each query."""
    found = trained("qbe", "-l", "2").folder / "benchmark.stdlist.xml"
    names = {clip.stem: clip for clip in clips("quesst14Database")}
    queries = [term.get("termid") for term in ElementTree.parse(found).iter("detected_termlist")]
    documents = {term.get("file") for term in ElementTree.parse(found).iter("term")}
    task = load_task(trained("qbe", "-l", "2").folder)
    for query in ElementTree.parse(found).iter("detected_termlist"):
        scores = {term.get("file"): float(term.get("score")) for term in query}
        others = [name for name in (*queries, *sorted(documents)) if name != query.get("termid")]
        answers = [
            answer
            for answer in task.predict([names[query.get("termid")], *(names[name] for name in others)])
            if Path(answer.clip).stem in documents
        ]
        ours = torch.tensor([answer.score for answer in answers], dtype=torch.float64)
        standard = (ours - ours.mean()) / ours.std(correction=0)
        assert standard.tolist() == pytest.approx([scores[Path(answer.clip).stem] for answer in answers], abs=2e-3)


def test_a_query_is_found_where_it_was_cut_out(model_file, clips, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(clips("LibriSpeech")[0])
    start, end = 0.5, 1.1
    soundfile.write(tmp_path / "query.wav", samples[int(start * rate) : int(end * rate)], rate)
    soundfile.write(tmp_path / "whole.wav", samples, rate)
    (answer,) = load_task(model_file, layer=0).predict([tmp_path / "query.wav", tmp_path / "whole.wav"])
    assert answer.start == pytest.approx(start, abs=0.06) and answer.end == pytest.approx(end, abs=0.06)


def test_folds_answer_together(trained, clips, tmp_path):
    """The task's folder of a run holds five trainings: their mean is the answer."""
    from pruned_upstream.superb.results import RunResults, TaskResult, write_results

    folds = [session.replace("Session", "fold") for session in FOLDS]
    alone = []
    for fold in folds:
        of_fold = trained("er", "-v", fold)
        (tmp_path / "er" / fold / "train").mkdir(parents=True)
        shutil.copy(of_fold.checkpoint, tmp_path / "er" / fold / "train")
        alone.append(load_task(of_fold.folder).predict(clips("IEMOCAP/Session1")[:2]))
    result = TaskResult(
        {"acc": 50.0}, official=False, notes=("toy",), folders=tuple(f"er/{fold}/test" for fold in folds)
    )
    write_results(tmp_path / "er", RunResults("tiny", "pruned_wavlm", tasks={"er": result}))
    task = load_task(tmp_path / "er")
    assert "mean of 5 trainings" in task.remarks[0]
    for number, answer in enumerate(task.predict(clips("IEMOCAP/Session1")[:2])):
        for emotion, probability in answer.probabilities["emotion"].items():
            mean = sum(each[number].probabilities["emotion"][emotion] for each in alone) / 5
            assert probability == pytest.approx(mean, abs=1e-5)


def test_the_command_prints_and_writes_json(trained, clips, invoke):
    two = clips("speech_commands_test_set_v0.01")[:2]
    said = invoke("predict", trained("ks").folder, *two, "--top", 2)
    assert said.count("keyword: ") == 2 and str(two[1]) in said
    tree = json.loads(invoke("predict", trained("ks").folder, *two, "--json", "--top", 3))
    assert [entry["clip"] for entry in tree] == [str(clip) for clip in two]
    assert len(tree[0]["keyword"]["probabilities"]) == 3
    assert tree[0]["keyword"]["answer"] == next(iter(tree[0]["keyword"]["probabilities"]))
    rttm = invoke("predict", trained("sd").folder, clips("diarization/test")[0])
    assert all(line.startswith("SPEAKER ") and len(line.split()) == 10 for line in rttm.splitlines())
