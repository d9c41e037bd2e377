"""The folder to publish: what the card says is what the files hold."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import random_encoder, tiny_config

from pruned_upstream import export as export_module
from pruned_upstream import release as release_module
from pruned_upstream.errors import CheckpointError, ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import load, read_masks, save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS, EncoderConfig, Head, TransformerLayer
from pruned_upstream.model.size import count_parameters
from pruned_upstream.release import without_places, write_release
from pruned_upstream.superb.results import RunResults, TaskResult, write_results

LAYERS = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1)), True, 7),
    TransformerLayer(True, (), True, 0),
    TransformerLayer(False, (), False, 0),
)

FILES = ["README.md", "config.json", "model.safetensors", "modeling_pruned_upstream.py", "preprocessor_config.json"]


@pytest.fixture
def file(tmp_path):
    conv = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    dense = tiny_config(conv_layers=conv)
    encoder = random_encoder(EncoderConfig(**{**vars(dense), "layers": LAYERS}))
    save(tmp_path / "small.safetensors", encoder, provenance={"teacher": "WavLM-Base", "recipe": "a: 1\nb: 2\n"})
    return tmp_path / "small.safetensors"


@torch.no_grad()
def test_card_and_model(invoke, file, tmp_path):
    folder = tmp_path / "release"
    output = invoke("release", file, "--out", folder, "--license", "mit")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert all(path.name in output for path in folder.iterdir())
    encoder, released = load(file), load(folder / "model.safetensors")
    wav = [torch.randn(8000)]
    assert torch.equal(encoder.extract(wav).hidden_states[-1], released.extract(wav).hidden_states[-1])
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n") and "# small" in card
    assert f"| parameters (M) | {count_parameters(encoder.config) / 1e6:.2f} |" in card
    assert "| living attention heads | 2 | 12 |" in card
    assert "| 1 | 2 | 9 | 6 | 7 |" in card and "| 3 | 0 | 0 | 0 | 0 |" in card
    assert "hf://OWNER/small" in card
    assert "- teacher: WavLM-Base" in card and "a: 1\nb: 2\n" in card
    description = json.loads((folder / "config.json").read_text())
    assert EncoderConfig.from_json(json.dumps(description["encoder"])) == encoder.config


def test_a_recipe_of_several_lines_is_a_paragraph_of_its_own(file, tmp_path):
    write_release(file, tmp_path / "release", name="small", license="mit")
    card = (tmp_path / "release" / "README.md").read_text()
    assert "- teacher: WavLM-Base\n\nrecipe:\n\n```yaml\na: 1\nb: 2\n```\n" in card


def test_scores_say_when_they_are_not_official(invoke, file, tmp_path):
    tasks = {
        "ks": TaskResult({"acc": 91.5}, official=False, notes=("self-made data",)),
        "ic": TaskResult({"acc": 88.25}, official=True, steps=200_000),
    }
    write_results(tmp_path / "run", RunResults("small", "pruned_upstream", tasks=tasks))
    invoke("release", file, "--out", tmp_path / "release", "--results", tmp_path / "run")
    card = (tmp_path / "release" / "README.md").read_text()
    assert "91.5" in card and "88.25" in card
    assert "not for comparison with others: ks.\n" in card


def test_a_released_model_is_not_overwritten(invoke, file, tmp_path):
    invoke("release", file, "--out", tmp_path / "release")
    with pytest.raises(PrunedUpstreamError, match="holds .* already"):
        invoke("release", file, "--out", tmp_path / "release")
    with pytest.raises(CheckpointError, match="no model file"):
        invoke("release", tmp_path / "absent", "--out", tmp_path / "other")


def test_export_command_reports_dropped_heads(invoke, file, tmp_path, monkeypatch):
    exported = []

    def record(encoder, path, **options):
        exported.append((encoder.config, options))
        return export_module.OnnxReport(path, 10_000_000, 1e-6, (1e-7, 2e-6))

    monkeypatch.setattr(export_module, "export_onnx", record)
    output = invoke("export", file, "--onnx", tmp_path / "m.onnx", "--drop-heads", 1, "--int8")
    (config, options), *_ = exported
    assert [head.id for head in config.layers[0].heads] == [0]
    assert options["int8"] and options["provenance"]["teacher"] == "WavLM-Base"
    assert "heads: 2 -> 1" in output and "10.0 MB" in output and "2.0e-06" in output
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"sound\.wav is no audio that can be read"):
        invoke("export", file, "--onnx", tmp_path / "m.onnx", "--drop-heads", 1, "--audio", sound)


def test_a_sparse_model_stays_sparse(tmp_path):
    encoder = random_encoder(tiny_config())
    name = "encoder.layers.1.fc2.weight"
    mask = torch.arange(24 * 40).view(24, 40) % 3 == 0
    with torch.no_grad():
        encoder.get_parameter(name).mul_(mask)
    save(tmp_path / "parp.safetensors", encoder, masks={name: mask})
    write_release(tmp_path / "parp.safetensors", tmp_path / "out", name="parp")
    assert torch.equal(read_masks(tmp_path / "out" / "model.safetensors")[name], mask)


def test_nothing_is_left_of_a_release_that_failed(file, tmp_path, monkeypatch):
    monkeypatch.setattr(release_module, "_widths", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_release(file, tmp_path / "out" / "release", name="small")
    assert list((tmp_path / "out").iterdir()) == []


def test_results_of_another_model_are_refused(file, tmp_path):
    sound = {"ks": TaskResult({"acc": 91.5}, official=True)}
    other = RunResults("a", "pruned_upstream", tasks=sound, provenance={"checkpoint_sha256": "0" * 64})
    write_results(tmp_path / "run", other)
    with pytest.raises(DataError, match="results of another model"):
        write_release(file, tmp_path / "release", name="small", results=tmp_path / "run")
    write_results(tmp_path / "run", RunResults("a", "pruned_upstream", parameters=5, tasks=sound))
    with pytest.raises(DataError, match="of 5 parameters"):
        write_release(file, tmp_path / "release", name="small", results=tmp_path / "run")
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("changes", [{"license": "a: b\n# c"}, {"license": ""}, {"name": "a\n# b"}, {"name": " "}])
def test_what_would_spoil_the_card(changes, file, tmp_path):
    with pytest.raises(ConfigError, match=r"--(license|name) is .*must be"):
        write_release(file, tmp_path / "release", **({"name": "small"} | changes))
    assert not (tmp_path / "release").exists()


def test_no_place_of_this_machine_is_published(file, tmp_path):
    recipe = (
        "teacher: /home/me/secret place/WavLM-Base.pt\ndata:\n  train:\n  - ~/speech/train\nrun:\n  folder: ../x/r1\n"
    )
    save(tmp_path / "a.safetensors", load(file), provenance={"recipe": recipe, "command": "prune /home/me/r.yaml"})
    write_release(tmp_path / "a.safetensors", tmp_path / "release", name="small")
    for path in (tmp_path / "release").iterdir():
        text = path.read_bytes()
        assert not any(word in text for word in (b"/home", b"secret place", b"~/", b"../")), path
    assert "teacher: WavLM-Base.pt" in (tmp_path / "release" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/secret place/WavLM Base (1).pt", "WavLM Base (1).pt"),
        ("train:\n- file:///home/me/train", "train:\n- train"),
        ("teacher: '/home/me/it''s secret/WavLM.pt'", "teacher: 'WavLM.pt'"),
        ("data.train=/home/me/speech", "data.train=speech"),
    ],
)
def test_places_of_many_forms(text, left):
    assert without_places(text) == left


@pytest.mark.parametrize(
    "text", ["q/k dims and v/o", "hf://OWNER/x", "https://a.b/c", "runs/best", "1.5 / 2", "a: 3/4", "</div>"]
)
def test_what_is_no_place_stays(text):
    assert without_places(text) == text
