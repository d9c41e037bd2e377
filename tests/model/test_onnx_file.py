"""ONNX files: what they say of themselves, and what is said of those that cannot be used."""

from __future__ import annotations

import pytest

from pruned_upstream.errors import CheckpointError, PrunedUpstreamError
from pruned_upstream.model import onnx_file
from pruned_upstream.model.checkpoint import load, read_header, read_masks
from pruned_upstream.model.onnx_file import OnnxEncoder

onnx = pytest.importorskip("onnx")


@pytest.fixture
def write(tmp_path):
    """Write an ONNX file that computes nothing, with this metadata."""

    def written(**metadata: str):
        model = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], []))
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return written


def test_the_description_is_that_of_a_model_file(write, tiny):
    path = write(config=tiny.config.to_json(), provenance='{"teacher": "WavLM-Base"}', producer="a quantiser")
    header = read_header(path)
    assert (header.config, header.provenance, header.version) == (tiny.config, {"teacher": "WavLM-Base"}, "onnx")
    assert read_masks(path) == {}
    with pytest.raises(CheckpointError, match=r"model\.onnx is an ONNX file, .* name the model file"):
        load(path)


def test_what_cannot_be_used_is_told(write, tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"another program.*pruned-upstream export"):
        OnnxEncoder(write(producer="a stranger"))
    with pytest.raises(CheckpointError, match=r"model\.onnx: its description cannot be read"):
        OnnxEncoder(write(config="{}", provenance="{}"))
    path = write(config=tiny.config.to_json(), provenance="{}")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not a complete ONNX file"):
        OnnxEncoder(path)
    with pytest.raises(CheckpointError, match=r"there is no model file .*absent\.onnx"):
        OnnxEncoder(tmp_path / "absent.onnx")


def test_missing_packages_are_named(write, tiny, monkeypatch):
    path = write(config=tiny.config.to_json(), provenance="{}")
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrunedUpstreamError, match=r"need onnx; `pip install pruned_upstream\[onnx\]`"):
        OnnxEncoder(path)
