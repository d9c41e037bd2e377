"""Models by their name on the hub, out of a cache laid by hand: nothing here asks the network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.hub import RELEASED, local_file, plain_name
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.running import Settings

hub = pytest.importorskip("huggingface_hub")
constants, errors = (pytest.importorskip(f"huggingface_hub.{part}") for part in ("constants", "errors"))
COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def repository(tiny, tmp_path, monkeypatch):
    """OWNER/NAME in huggingface_hub's cache: two commits, the first of them tagged v1."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owner--small.model"
    (folder / "refs").mkdir(parents=True)
    for revision, commit in {"main": COMMIT, "v1": OLDER}.items():
        (folder / "refs" / revision).write_text(commit)
        save(folder / "blobs" / revision, tiny, provenance={"revision": revision})
        link(folder / "snapshots" / commit / RELEASED, folder / "blobs" / revision)
    (folder / "blobs" / "onnx").write_bytes(b"")
    link(folder / "snapshots" / COMMIT / "model.int8.onnx", folder / "blobs" / "onnx")
    return folder / "snapshots"


def link(name: Path, file: Path) -> None:
    """As the cache keeps files: under their hash, with links that bear their names."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(file)


def test_a_fetched_file_keeps_its_ending_on_the_way_to_s3prl(repository, tmp_path):
    name = "hf://owner/small.model/model.int8.onnx"
    settings = Settings(
        folder=tmp_path, upstream="pruned_upstream", data=Data(tmp_path), checkpoint=local_file(name), tasks=("ks",)
    )
    assert settings.upstream_arguments[-1] == str(repository / COMMIT / "model.int8.onnx")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("runs/compact.safetensors", "compact"),
        ("runs/compact.int8.onnx", "compact.int8.onnx"),
        ("hf://owner/small.model", "small.model"),
        ("hf://owner/small.model@v1.0", "small.model@v1.0"),
        ("hf://owner/small.model@v1.0/onnx/model.onnx", "small.model@v1.0-onnx-model.onnx"),
    ],
)
def test_what_a_model_is_called(name, plain):
    assert plain_name(name) == plain


def test_training_fetches_nothing():
    with pytest.raises(CheckpointError, match="training fetches nothing; `hf download owner/name`"):
        load_teacher("hf://owner/name")


@torch.no_grad()
def test_a_model_is_loaded_by_name(repository, tiny):
    wavs = unequal_waveforms()
    loaded = load("hf://owner/small.model")
    assert largest_difference(loaded.extract(wavs).hidden_states, tiny.extract(wavs).hidden_states) == 0
    assert read_header("hf://owner/small.model").provenance == {"revision": "main"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hf://owner/small.model", f"{COMMIT}/{RELEASED}"),
        ("hf://owner/small.model@v1", f"{OLDER}/{RELEASED}"),
        (f"hf://owner/small.model@{OLDER}", f"{OLDER}/{RELEASED}"),
        ("hf://owner/small.model/model.int8.onnx", f"{COMMIT}/model.int8.onnx"),
        (Path("hf://owner/small.model@main/model.int8.onnx"), f"{COMMIT}/model.int8.onnx"),
    ],
)
def test_revision_and_file(repository, name, place):
    assert local_file(name) == repository / place


def test_a_path_stays_a_path(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not even imported
    for name in ("owner/name", "runs/hf:/odd", Path("compact.safetensors")):
        assert local_file(name) == Path(name)


def failing(error: type[Exception]):
    def hf_hub_download(*_, **__):
        raise error.__new__(error)  # some take a response of the network

    return hf_hub_download


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("GatedRepoError", "owner/name is gated; ask for access"),
        ("RepositoryNotFoundError", "no repository owner/name; check its name, or log in"),
        ("RevisionNotFoundError", "owner/name has no revision v9"),
        ("RemoteEntryNotFoundError", "owner/name at v9 has no file model.safetensors"),
    ],
)
def test_what_the_hub_does_not_have_is_named(monkeypatch, error, words):
    monkeypatch.setattr(hub, "hf_hub_download", failing(getattr(errors, error)))
    with pytest.raises(CheckpointError, match=words):
        load("hf://owner/name@v9")


def test_what_cannot_be_fetched_is_told(repository, monkeypatch):
    with pytest.raises(CheckpointError, match=r"hub cannot be reached, and model\.onnx of owner/small\.model was not"):
        local_file("hf://owner/small.model/model.onnx")
    with pytest.raises(CheckpointError, match="write hf://OWNER/NAME"):
        local_file("hf://name")
    with pytest.raises(CheckpointError, match="could not be fetched from the hub: "):
        local_file("hf://owner/-name-")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="the package 'huggingface_hub' is missing"):
        local_file("hf://owner/small.model")


@pytest.mark.parametrize(
    "name",
    ["hf://../x", "hf://owner/..", "hf://owner/name/../../etc/passwd", "hf://owner/name@../x", "hf://o/" + "n" * 2000],
)
def test_names_that_lead_out_of_the_cache(name):
    with pytest.raises(CheckpointError, match="is no place on the hub"):
        local_file(name)
