"""README's commands: each is run here, or listed with the reason why not and at least parsed; its form is held."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tiny import random_encoder, tiny_config

from pruned_upstream.cli import build_app
from pruned_upstream.model.checkpoint import save

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROGRAM = "pruned-upstream"

# what is not run here; .ci/run runs the first two in a fresh clone
NOT_RUN = {
    "make setup": "makes the environment that these tests run in",
    "demo --short": "a minute or two: the last step of .ci/run",
    "demo": "a quarter of an hour",
    "prune": "needs WavLM Base and LibriSpeech; tests/training prunes",
    "superb": "needs the corpora; tests/superb runs the tasks",
    "predict": "needs a run of the demo; tests/prediction asks such runs",
}


def commands() -> list[list[str]]:
    """The words of each line of the shell blocks, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


CALLS = [words[1:] for words in commands() if words[0].endswith(PROGRAM)]


def test_readme_is_a_page():
    lines = README.splitlines()
    # a picture's or a table's line cannot be wrapped
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    assert not re.search(r"^(<{7}|={7}|>{7})", README, flags=re.M)


def test_every_command_is_run_or_has_a_reason():
    said = {" ".join(words) for words in commands() if not words[0].endswith(PROGRAM)}
    said |= {" ".join(call) if call[0] == "demo" else call[0] for call in CALLS}
    assert said - {"info"} == set(NOT_RUN)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_the_command_line_takes_it(call):
    command = typer.main.get_command(build_app()).commands[call[0]]
    command.make_context(call[0], call[1:])


@pytest.fixture
def model(tmp_path):
    for place in ("runs/demo/prune", "runs/wavlm80"):
        save(tmp_path / place / "compact.safetensors", random_encoder(tiny_config()), provenance={})
    return tmp_path


def test_info_runs(model):
    (call,) = [call for call in CALLS if call[0] == "info"]
    done = subprocess.run(
        [sys.executable, "-m", "pruned_upstream.cli", *call], cwd=model, capture_output=True, text=True
    )
    assert done.returncode == 0 and "In short" in done.stdout, done.stderr


def test_python_runs(model):
    import soundfile
    import torch

    soundfile.write(model / "speech.wav", torch.randn(16000).numpy() * 0.1, 16000)
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", block + "\nprint(len(hidden_states))"], cwd=model, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() == str(tiny_config().num_layers + 1), done.stderr
