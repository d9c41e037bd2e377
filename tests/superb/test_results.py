"""results.yaml: what is written is read back; what a person may break is refused with its place."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.errors import DataError, PrunedUpstreamError
from pruned_upstream.superb.metrics import METRICS, TASK_METRICS
from pruned_upstream.superb.results import FILE_NAME, RunResults, TaskResult, read_results, write_results

RESULTS = RunResults(
    model="ours",
    upstream="pruned_wavlm",
    checkpoint="compact.safetensors",
    parameters=26_571_392,
    nonzero_parameters=26_571_000,
    macs=(1, 2, 3, 4),
    profiler_macs=(1, 2, 3, 3),
    tasks={
        "pr": TaskResult({"per": 9.09}, official=True, steps=100_000, seconds=31_012.5, folders=("pr",)),
        "sf": TaskResult({"f1": 87.14, "cer": 27.13}, official=False, notes=("20 steps instead of 200000",), steps=20),
        "qbe": TaskResult({"mtwv": 7.4}, official=True, folders=("qbe/layer-09/test",), details={"layer": 9}),
    },
    provenance={"s3prl": "0.4.18"},
)


def test_what_is_written_is_read(tmp_path):
    write_results(tmp_path, RESULTS)
    assert read_results(tmp_path) == RESULTS
    assert RESULTS.total_macs == 10
    assert RESULTS.metrics == {"pr.per": 9.09, "sf.f1": 87.14, "sf.cer": 27.13, "qbe.mtwv": 7.4}


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            key: st.floats(0, min(m.high, 1000), allow_nan=False) for key, m in METRICS.items() if key[:2] != "sf"
        },
    )
)
def test_every_float_survives_the_file(values, tmp_path_factory):
    tasks = {METRICS[key].task: TaskResult({METRICS[key].name: value}, official=True) for key, value in values.items()}
    folder = tmp_path_factory.mktemp("run")
    write_results(folder, RunResults(model="m", upstream="u", tasks=tasks))
    assert read_results(folder).metrics == values


def test_files_of_before_the_profilers_figures_are_read(tmp_path):
    path = write_results(tmp_path, RESULTS)
    tree = yaml.safe_load(path.read_text())
    del tree["nonzero_parameters"], tree["profiler_macs"]
    path.write_text(yaml.safe_dump(tree))
    assert read_results(tmp_path) == dataclasses.replace(RESULTS, nonzero_parameters=None, profiler_macs=None)


def test_there_are_ten_tasks_and_eleven_metrics():
    assert list(TASK_METRICS) == ["pr", "asr", "ks", "qbe", "sid", "sv", "sd", "ic", "sf", "er"]
    assert len(METRICS) == 11 and [m.name for m in TASK_METRICS["sf"]] == ["f1", "cer"]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("tasks", "pr", "metrics", "per"), float("nan"), "tasks.pr.metrics.per is nan"),
        (("tasks", "pr", "metrics", "per"), -1.0, "tasks.pr.metrics.per is -1.0"),
        (("tasks", "pr", "metrics", "per"), "9.09", "tasks.pr.metrics"),
        (("tasks", "qbe", "metrics", "mtwv"), 740.0, "from 0 to 100"),
        (("tasks", "sf", "metrics"), {"f1": 87.14}, r"the task has \['cer', 'f1'\]"),
        (("tasks", "pr", "official"), False, "must say why"),
        (("tasks", "pr", "official"), "yes", "official is 'yes'"),
        (("tasks", "pr", "steps"), True, "steps is True"),
        (("tasks", "pr", "seconds"), float("inf"), "seconds is inf"),
        (("tasks", "pr", "folders"), "pr", "must be a list, each text"),
        (("tasks", "pr", "colour"), "blue", r"unknown keys \['colour'\]"),
        (("tasks", "st"), {}, "unknown task 'st'"),
        (("tasks", "pr"), [], "tasks.pr is not a mapping"),
        (("tasks",), None, "tasks is not a mapping"),
        (("macs",), [1, 2, 3], "must be 4 counts"),
        (("parameters",), 26.57, "parameters is 26.57"),
        (
            ("nonzero_parameters",),
            26_571_393,
            "nonzero_parameters is 26571393, more than parameters, which is 26571392",
        ),
        (("profiler_macs",), [1, 2, 3, 5], r"profiler_macs is \(1, 2, 3, 5\), more than macs, which is"),
        (("version",), 2, "another version"),
        (("version",), True, "another version"),
        (("model",), "", "model is ''"),
        (("model",), "a\nb", "printable"),
        (("model",), "a\x1b[31m", "printable"),
        (("model",), "a" * 2000, "one line of at most 200"),
    ],
)
def test_a_broken_edit_is_refused_with_its_place(tmp_path, place, value, words):
    path = write_results(tmp_path, RESULTS)
    tree = yaml.safe_load(path.read_text())
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(DataError, match=words) as refusal:
        read_results(tmp_path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("content", ["", "a: [", "- 1", b"\xff\xfe\x00"])
def test_a_file_that_is_no_results_file_is_refused(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=FILE_NAME):
        read_results(tmp_path)


def test_a_folder_without_results_is_no_run_folder(tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        read_results(tmp_path)


def test_invalid_results_do_not_replace_valid_ones(tmp_path):
    write_results(tmp_path, RESULTS)
    broken = dataclasses.replace(RESULTS, tasks={"pr": TaskResult({"per": float("nan")}, official=True)})
    with pytest.raises(DataError, match="nan"):
        write_results(tmp_path, broken)
    assert read_results(tmp_path) == RESULTS
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunedUpstreamError, match="file"):
        write_results(tmp_path / "file" / "run", RESULTS)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("per: 9.09", "per: 2024-01-01", "must map names to values, each a number"),
        ("per: 9.09", "per: 2024-13-45", "column 12: this is no timestamp"),
        ("per: 9.09", "per: !!timestamp noon", "cannot be read: line .* this is no timestamp"),
        ("per: 9.09", "per: !!int nine", "cannot be read: line .* this is no int"),
        ("per: 9.09", "per: 1.0e+308", "a measured value is a number from 0 to 1e"),
        ("per: 9.09", f"per: {'9' * 400}", "holds an integer of 400 digits"),
        ("parameters: 26571392", f"parameters: {'9' * 30}", "a number of astronomical size"),
        ("parameters: 26571392", f"parameters: 0x{'f' * 5000}", "holds an integer of 5002 digits"),
        ("per: 9.09", f"per: 0x{'f' * 30}", "a number of astronomical size"),
        ("parameters: 26571392", f"parameters: {'9' * 5000}", "cannot be read: line . holds an integer of 5000"),
        ("model: ours", f"model: {'[' * 2000}{']' * 2000}", "nested more than 32 deep"),
        ("model: ours", "model: {a: {b: {c: {d: {e: {f: {g: {h: 1}}}}}}}}", r"model is \{.*it must be text"),
        ("model: ours", 'model: "\\uD800"', "model is .*it must be text"),
        ("  pr:", "  2024-01-01:", "unknown task '2024-01-01'"),
    ],
)
def test_a_file_edited_by_hand_is_answered_by_a_sentence(tmp_path, old, new, said):
    path = write_results(tmp_path, RESULTS)
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=said) as refusal:
        read_results(tmp_path)
    assert "results.yaml" in str(refusal.value) and len(str(refusal.value)) < 700


def test_bytes_that_are_no_utf8_are_answered_by_a_sentence(tmp_path):
    (tmp_path / "results.yaml").write_bytes(b"model: caf\xe9\n")
    with pytest.raises(DataError, match="results.yaml cannot be read"):
        read_results(tmp_path)
