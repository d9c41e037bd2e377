"""What the pages tell people to type: the command line takes each command, and the Python runs on tiny models.

`tests/prediction/test_page.py` runs the page on predictions, whose tasks are trained first.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import typer
from fresh_clone import PROGRAM, blocks, commands, words
from tiny import random_encoder, tiny_config

import pruned_upstream
from pruned_upstream.cli import build_app
from pruned_upstream.distillation.student import as_streaming
from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.training.methods import METHODS
from pruned_upstream.training.recipe import key_kinds

PAGES = {
    page.name: page.read_text(encoding="utf-8") for page in sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
}
KEYS = {name for method in METHODS.values() for name in key_kinds(method.recipe_class)}
COMMANDS = [
    (page, words(command))
    for page, text in PAGES.items()
    for command in commands(text)
    if command.split()[0] == PROGRAM
]


@pytest.mark.parametrize(
    ("page", "call"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_the_command_line_takes_it(page, call):
    typed = [word for word in call if word != "..."]
    command = typer.main.get_command(build_app()).commands[typed[0]]
    command.make_context(typed[0], typed[1:])
    keys = {word.partition("=")[0] for word in typed[1:] if re.match(r"\w[\w.]*=", word)}
    assert keys <= KEYS, f"{page}: no recipe has the key {keys - KEYS}"


def test_every_command_named_in_a_sentence_exists():
    named = {name for text in PAGES.values() for name in re.findall(rf"`{PROGRAM} ([a-z-]+)", text)}
    assert len(named) > 5 and named <= typer.main.get_command(build_app()).commands.keys()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small model that hears chunks, and a recording."""
    import soundfile

    monkeypatch.chdir(tmp_path)
    save("compact.safetensors", as_streaming(random_encoder(tiny_config()), 0.16, 0.64), provenance={})
    generator = torch.Generator().manual_seed(0)
    soundfile.write("speech.wav", 0.1 * torch.randn(16000, generator=generator).numpy(), 16000)
    return tmp_path


def run(page: str, **names) -> dict:
    """The page's Python, block after block, with these names defined before."""
    for number, block in enumerate(blocks("python", PAGES[page]), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


def test_encoder(folder):
    for package in ("peft", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    shown = []
    microphone = torch.randn(16000, generator=torch.Generator().manual_seed(1)).numpy().reshape(-1, 500)
    export_onnx(load("compact.safetensors"), "live.onnx", live=True)
    names = run("encoder.md", microphone=microphone, show=shown.append)
    assert names["features"].shape[0] == 1 and names["features"].shape[2] == tiny_config().embed_dim
    adapters = [p for p in names["model"].parameters() if p.requires_grad]
    assert len(adapters) == 2 * 6 * tiny_config().num_layers
    assert sum(map(len, shown)) == 2 * tiny_config().frames(16000)  # by torch and by onnxruntime


def test_service(folder):
    save("compact.safetensors", random_encoder(tiny_config()), provenance={})
    names = run("service.md")
    waveforms = torch.randn(1, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exported, own = names["program"].module()(waveforms), names["encoder"](waveforms).hidden_states
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(exported, own, strict=True))


def test_conversions(folder):
    """The subnet that the page writes into a file is one that the base supernet contains."""
    from pruned_upstream.model.convert import lighthubert

    torch.save({}, "lighthubert_base.pt")
    run("conversions.md")
    subnet = lighthubert._given(torch.load("lighthubert_uneven.pt", weights_only=True)["subnet"])
    assert len(subnet.heads) == 12 and set(subnet.heads) == {10, 8} and set(subnet.ffn) == {2560, 2240}


def test_speed(folder):
    names = run("speed.md", pruned_upstream=pruned_upstream, torch=torch)
    assert {p.dtype for p in names["encoder"].parameters()} == {torch.bfloat16}


def test_no_page_with_python_is_forgotten():
    with_python = {page for page, text in PAGES.items() if blocks("python", text)}
    assert with_python == {"encoder.md", "service.md", "conversions.md", "speed.md", "predict.md", "papers.md"}
