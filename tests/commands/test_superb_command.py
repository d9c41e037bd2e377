"""`pruned-upstream superb`: the data check, refused options, and the report of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from tiny import random_encoder, tiny_config
from typer.testing import CliRunner

from pruned_upstream.commands import pairs, superb
from pruned_upstream.errors import ConfigError
from pruned_upstream.jobs import Failure
from pruned_upstream.model.checkpoint import save
from pruned_upstream.superb import running
from pruned_upstream.superb.results import RunResults, TaskResult
from pruned_upstream.superb.running import Report


def invoke(*arguments: str):
    app = typer.Typer()
    superb.add_to(app)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def model_file(tmp_path) -> Path:
    save(tmp_path / "compact.safetensors", random_encoder(tiny_config()))
    return tmp_path / "compact.safetensors"


@pytest.fixture
def started(monkeypatch) -> list[running.Settings]:
    """The settings with which runs were started; nothing is run."""
    seen = []
    task = TaskResult({"acc": 96.57}, official=False, notes=("4 training steps instead of 200000",))

    def pretend(settings, observer=None):
        seen.append(settings)
        return Report(
            RunResults(settings.model_name, settings.upstream, tasks={"ks": task}),
            {"pr": Failure("pr/train: killed by SIGKILL", ("last words",))},
        )

    monkeypatch.setattr(running, "run", pretend)
    return seen


def test_the_check_names_what_is_missing_and_fails(tmp_path):
    result = invoke("--data", str(tmp_path), "--check", "--tasks", "ks")
    assert result.exit_code == 1
    assert "not ready" in result.output
    assert "speech_commands_v0.01 is missing" in result.output.replace("\n", "")


def said(*arguments: str) -> tuple[int, str]:
    result = invoke(*arguments)
    return result.exit_code, result.output.replace("\n", " ")


def test_the_check_builds_the_model_on_its_device(tmp_path, model_file):
    check = ("--data", str(tmp_path), "--tasks", "ks", "--check")
    code, output = said(str(model_file), *check, "--device", "cpu")
    assert code == 1 and "model ready" in output and "4 hidden states" in output and "on cpu" in output

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model_file.read_bytes()[:-100])
    code, output = said(str(damaged), *check)
    assert code == 2 and "model not ready" in output and "damaged.safetensors" in output

    code, output = said("-u", "fbank", *check, "--device", "cuda:7")
    assert code == 2 and "there is no GPU for --device cuda:7" in output
    code, output = said("-u", "fbank", *check, "--device", "gpu")
    assert code == 2 and "'gpu' is no device" in output


def test_a_failed_task_is_reported_with_the_end_of_its_log(started, tmp_path):
    result = invoke("--upstream", "fbank", "--data", str(tmp_path), "--tasks", "ks,pr", "--output", str(tmp_path / "r"))
    assert result.exit_code == 1
    assert "96.57" in result.output
    assert "no: 4 training steps" in result.output.replace("\n", " ")
    assert "pr failed: pr/train: killed by SIGKILL" in result.output
    assert "last words" in result.output
    assert started[0].tasks == ("ks", "pr")


def test_a_file_alone_is_a_compact_model(started, tmp_path):
    model = tmp_path / "small.safetensors"
    model.touch()
    invoke(str(model))
    assert (started[0].upstream, started[0].checkpoint, started[0].folder) == (
        "pruned_upstream",
        model,
        Path("runs/superb/small"),
    )


def test_any_upstream_takes_its_checkpoint_behind_k(started, tmp_path):
    (tmp_path / "WavLM-Base.pt").touch()
    invoke(
        "-u",
        "wavlm_local",
        "-k",
        str(tmp_path / "WavLM-Base.pt"),
        "--lr",
        "ks=1e-3",
        "--lr-search",
        "--tasks",
        "ks,er,sv",
    )
    assert started[0].upstream_arguments[:2] == ("-u", "wavlm_local")
    assert started[0].learning_rates == {"ks": (1e-3,), "er": superb.LEARNING_RATES}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to measure"),
        (["-u", "fbank", "--tasks", "kws"], "unknown task 'kws'"),
        (["-u", "fbank", "--lr", "ks"], "KEY=VALUE"),
        (["-u", "fbank", "--lr", "ks=fast"], "not a learning rate"),
        (["-u", "fbank", "--corpus", "Libri=x"], "unknown corpus"),
        (["-u", "fbank", "--language-model", "x"], "go together"),
        (["-u", "fbank", "--name", "a\x1b[31m"], "say one with --name"),
    ],
)
def test_mistakes_are_sentences(started, arguments, words):
    result = invoke(*arguments)
    assert words in str(result.exception)
    assert not started


def test_the_options_key_value_form():
    assert pairs(["a=b=c"], "--x") == {"a": "b=c"}
    with pytest.raises(ConfigError):
        pairs(["=b"], "--x")


def test_quick_runs_the_tasks_that_tell_most_for_least(started, model_file, tmp_path):
    invoke(str(model_file), "--quick", "--output", str(tmp_path / "run"))
    assert started[0].tasks == ("pr", "sid")
    with pytest.raises(ConfigError, match="--quick runs pr, sid"):
        raise invoke(str(model_file), "--quick", "--tasks", "ks").exception
