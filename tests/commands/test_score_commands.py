"""`score` and `submission` from run folder to files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pruned_upstream.commands import score as score_commands
from pruned_upstream.errors import DataError
from pruned_upstream.superb.metrics import TASK_METRICS
from pruned_upstream.superb.published import PAPER, published
from pruned_upstream.superb.results import RunResults, TaskResult, write_results
from pruned_upstream.superb.tasks import TASKS

pytest.importorskip("matplotlib")


def run_folder(folder: Path, model: str, *tasks: str) -> Path:
    metrics = published(PAPER).metrics
    results = {
        task: TaskResult(
            {metric.name: metrics[metric.key] for metric in TASK_METRICS[task]}, official=True, steps=TASKS[task].steps
        )
        for task in tasks or TASK_METRICS
    }
    write_results(folder, RunResults(model, "pruned_wavlm", parameters=26_000_000, macs=(1, 2, 3, 4), tasks=results))
    return folder


def test_one_run_alone(invoke, tmp_path):
    output = invoke("score", run_folder(tmp_path / "run", "ours"))
    assert "769.62" in output and "DistilHuBERT" not in output


def test_brackets_in_a_name_are_no_markup(invoke, tmp_path):
    assert "wavlm[v2]" in invoke("score", run_folder(tmp_path / "run", "wavlm[v2]"))


def test_compared_and_written(invoke, tmp_path):
    out = tmp_path / "report"
    output = invoke("score", run_folder(tmp_path / "run", "ours"), "--compare", "--out", out, "--format", "markdown")
    for name in ("DistilHuBERT", "DPHuBERT", PAPER, "WavLM Base", "+121.74"):
        assert name in output
    plots = {f"{name}.{kind}" for name in ("superb_s_parameters", "superb_s_macs", "tasks") for kind in ("png", "pdf")}
    assert {path.name for path in out.iterdir()} == {"scores.md", "scores.tex", "scores.csv"} | plots
    assert (out / "scores.md").read_text() == output
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [row["origin"] for row in rows] == ["measured"] + ["published"] * 4
    assert r"\bottomrule" in (out / "scores.tex").read_text()


def test_a_measured_teacher_is_taken_before_a_published_one(invoke, tmp_path):
    runs = [run_folder(tmp_path / "a", "ours", "ks"), run_folder(tmp_path / "b", "demo teacher", "ks", "ic")]
    output = invoke("score", *runs, "--compare", "--teacher", "demo teacher", "--format", "markdown")
    ours = output.split("### ours: difference to")[1].split("###")[0]
    assert "demo teacher (measured)" in ours and "WavLM Base" not in ours
    teachers = output.split("### demo teacher: difference to")[1]
    assert "DistilHuBERT (published)" in teachers and "demo teacher (measured)" not in teachers


def test_two_runs_of_one_model_are_told_apart(invoke, tmp_path):
    runs = [run_folder(tmp_path / name, "ours", "ks") for name in ("a", "b")]
    output = invoke("score", *runs, "--format", "csv")
    assert [line.split(",")[0] for line in output.splitlines()[1:]] == [f"ours ({run})" for run in runs]


def test_a_percentage_that_looks_like_a_fraction_is_questioned(tmp_path, capsys):
    """An EER of 0.0855 instead of 8.55 made 908 of a Score of 717."""
    run = run_folder(tmp_path / "run", "ours", "sv")
    path = run / "results.yaml"
    score_commands.score([run], output=score_commands.Format.csv)
    assert capsys.readouterr().err == ""
    value = published(PAPER).metrics["sv.eer"]
    path.write_text(path.read_text().replace(f"eer: {value}", "eer: 0.0855"))
    score_commands.score([run], output=score_commands.Format.csv)
    assert "ours: sv.eer is 0.0855, and results are in %; if it is a fraction, write 8.55" in capsys.readouterr().err


def test_a_partial_run_says_so(invoke, tmp_path):
    output = invoke("score", run_folder(tmp_path / "run", "ours", "ks"), "--format", "markdown")
    assert "no superb_s, missing tasks: pr, asr" in output and "(1/10)" in output


def test_a_result_that_contradicts_itself_has_no_points_whatever_it_is_called(invoke, tmp_path):
    run = run_folder(tmp_path / "run", "ours", "pr", "ks")
    path = run / "results.yaml"
    path.write_text(path.read_text().replace("steps: 200000", "steps: 4"))
    said = " ".join(invoke("score", run, "--compare", "--format", "markdown").split())
    assert (
        "* ours, not official (ks): it is called official, and contradicts itself: steps is 4, officially 200000"
        in said
    )
    assert "ours: no points for results that are not official" in said and "(1/10)" in said


def test_an_unknown_teacher_is_refused_with_the_names_there_are(invoke, tmp_path):
    with pytest.raises(DataError, match="no published row is called 'nobody'; there are FBANK"):
        invoke("score", run_folder(tmp_path / "run", "ours"), "--compare", "--teacher", "nobody")


def test_a_folder_that_is_no_run_is_refused(invoke, tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        invoke("score", tmp_path)


def test_submission_says_what_is_missing(invoke, tmp_path):
    run = run_folder(tmp_path / "run", "ours", "asr")
    results = RunResults("ours", "u", tasks={"asr": TaskResult({"wer": 10.0}, official=True, folders=("asr",))})
    write_results(run, results)
    (run / "asr").mkdir()
    (run / "asr/test-clean-noLM-hyp.ark").write_text("".join(f"1-2-{i:04d} A\n" for i in range(2620)))
    output = invoke("submission", run, "--name", "Ours")
    assert (run / "predict.zip").is_file() and "name: Ours" in (run / "submission.yaml").read_text()
    assert "predict.zip: asr_public" in output
    assert "missing: pr_public/predict.ark: the task was not run, or failed" in output


def test_predictions_that_cannot_be_used_end_it_and_a_task_can_be_left_out(invoke, tmp_path):
    run = tmp_path / "run"
    tasks = {
        "asr": TaskResult({"wer": 10.0}, official=True, folders=("asr",)),
        "ic": TaskResult({"acc": 90.0}, official=True, folders=("ic",)),
    }
    write_results(run, RunResults("ours", "u", tasks=tasks))
    for name, text in {
        "asr/test-clean-noLM-hyp.ark": "".join(f"1-2-{i:04d} A\n" for i in range(2620)),
        "ic/test_predict.csv": "u1,activate,lights,none\nu2,activate,li\0ghts,none\n",
    }.items():
        (run / name).parent.mkdir()
        (run / name).write_text(text)
    with pytest.raises(DataError, match=r"nothing was written, .* --without ic, .* line 2 holds .* U\+0000"):
        invoke("submission", run)
    assert not (run / "predict.zip").exists() and not (run / "submission.yaml").exists()
    assert "missing: ic_public/predict.csv: left out, as asked" in invoke("submission", run, "--without", "ic")
    with pytest.raises(DataError, match="there is no folder nowhere"):
        invoke("submission", run, "--data", "nowhere")


def test_some_tasks_give_an_early_estimate_that_is_no_superb_s(invoke, tmp_path):
    run, out = run_folder(tmp_path / "run", "ours", "pr", "sid"), tmp_path / "report"
    said = invoke("score", run, "--format", "markdown", "--out", out)
    assert "ours: early estimate from pr, sid: " in said and "no superb_s but a regression on 11" in said
    assert "early estimate" in (out / "scores.md").read_text()
    (row,) = csv.DictReader((out / "scores.csv").open())
    assert row["superb_s"] == "" and "estimate" not in (out / "scores.tex").read_text()
    assert "early estimate" in " ".join(invoke("score", run).split())
    assert "early estimate" not in invoke("score", run_folder(tmp_path / "whole", "ours"))
