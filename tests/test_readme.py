"""README's commands, as far as a second is enough: the command line takes each, the examples run on a tiny model.

`fresh_clone.py` runs them in a fresh clone, in their order and as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from fresh_clone import CLIP, PROGRAM, REPOSITORY, blocks, commands, differences, readme, why_not, words
from tiny import random_encoder, tiny_config

from benchmarks.shapes import conv_pruned, fine_grained, light, light_whole_heads, whole_heads
from pruned_upstream.cli import build_app
from pruned_upstream.description.macs import official_macs
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.size import count_parameters

PAPERS = ", the paper's shape"
ROOT = Path(__file__).parents[1]

CALLS = [words(command) for command in commands() if PROGRAM in command.split()[0]]


def test_readme_is_a_page():
    lines = readme().splitlines()
    # a picture's or a table's line cannot be wrapped
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    assert not re.search(r"^(<{7}|={7}|>{7})", readme(), flags=re.M)


def test_the_table_of_sizes_and_times_is_what_was_counted_and_measured():
    shapes = {
        "dense": wavlm_base_config(),
        "fine-grained heads, the paper's shape": fine_grained(),
        "whole heads": whole_heads(),
        "front end pruned too": conv_pruned(),
        "fine-grained heads, light front end": light(),
        "whole heads, light front end": light_whole_heads(),
    }
    page = json.loads((ROOT / "benchmarks" / "results" / "inference.json").read_text())
    times = {row["model"]: row["times faster"] for row in page["rows"] if (row["batch"], row["seconds"]) == (1, 5)}
    for name, config in shapes.items():
        millions, giga = count_parameters(config) / 1e6, sum(part.total for part in official_macs(config)) / 1e9
        measured = f"ours, {name.removesuffix(PAPERS)}, {millions:.1f} M"
        row = f"| {name} | {millions:.1f}M | {giga:,.0f} G | {times[measured]:.1f} | {times[measured + ', bf16']:.1f} |"
        assert row in readme().splitlines()


def test_the_table_of_times_is_that_of_its_page():
    """Rows stand in the same order; the page has 15 s and batches, too."""

    def rows(text: str, columns: tuple[int, int]) -> list[tuple[str, ...]]:
        table = re.search(r"\n\|[- |]+\|\n((?:\|.*\n)+)", text)[1]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        return [tuple(row[column] for column in columns) for row in cells]

    shown = rows(readme().partition("## What one gets")[2], (3, 4))
    assert shown == rows((REPOSITORY / "docs/speed.md").read_text(encoding="utf-8"), (1, 4)) and len(shown) == 6


def test_what_a_newcomer_can_run_is_run_in_a_fresh_clone():
    run = [words(command)[0] for command in commands() if why_not(command, long=False) is None]
    assert run == ["make", "demo", "info", "predict"]
    assert CLIP in next(command for command in commands() if "predict" in command)


def test_what_readme_shows_is_compared_with_what_is_printed():
    shown = "".join(blocks("text"))
    assert differences(shown) == []
    (row,) = differences(shown.replace("67.00%", "66.00%"))
    assert "sparsity" in row and "66.00%" in row
    assert len(differences("")) == sum(line[:1] in "│" for line in shown.splitlines() if line) - 1  # the heading's


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_the_command_line_takes_it(call):
    command = typer.main.get_command(build_app()).commands[call[0]]
    command.make_context(call[0], call[1:])


@pytest.fixture
def model(tmp_path):
    save(tmp_path / "runs/demo/prune-short/compact.safetensors", random_encoder(tiny_config()), provenance={})
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
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", block + "\nprint(len(hidden_states))"], cwd=model, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() == str(tiny_config().num_layers + 1), done.stderr
