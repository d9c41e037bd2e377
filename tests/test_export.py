"""ONNX export: onnxruntime computes what torch does, whatever the batch; what cannot be exported says so."""

from __future__ import annotations

import dataclasses
import logging
import re
import runpy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream import export
from pruned_upstream.errors import CheckpointError, ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.export import change_of_hidden_states, drop_narrow_heads, export_onnx, noise
from pruned_upstream.model.checkpoint import read_header
from pruned_upstream.model.config import (
    CONV_FEATURE_LAYERS,
    EncoderConfig,
    Head,
    Streaming,
    TransformerLayer,
    dense_config,
    light_front_end,
)
from pruned_upstream.model.onnx_file import OnnxEncoder, OnnxStream
from pruned_upstream.model.size import count_parameters

RAGGED = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1), Head(3, 0, 4)), True, 7),
    TransformerLayer(True, (), True, 0),
    TransformerLayer(False, (), False, 0),
)


def ragged(config: EncoderConfig):
    return random_encoder(dataclasses.replace(config, layers=RAGGED))


@pytest.fixture(scope="module")
def onnx_packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module", params=["wavlm", "wav2vec2_prenorm"])
def exported(onnx_packages, tmp_path_factory, request):
    strides = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    front_end = dense_config(conv_layers=strides).conv
    encoder = ragged(dataclasses.replace(SHAPES[request.param], conv=front_end))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return encoder, export_onnx(encoder, path, provenance={"teacher": "tiny"})


@torch.no_grad()
def test_a_light_front_end(onnx_packages, tmp_path):
    strides = tuple((64, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    dense = dataclasses.replace(SHAPES["wavlm"], conv=dense_config(conv_layers=strides).conv)
    encoder = ragged(light_front_end(dense))
    assert len(encoder.config.conv) == 4
    path = tmp_path / "light.onnx"
    assert export_onnx(encoder, path).largest < 1e-5
    wavs = unequal_waveforms((8000, 3333, 1200))
    found, expected = OnnxEncoder(path).extract(wavs), encoder.extract(wavs)
    assert largest_difference(found.hidden_states, expected.hidden_states, expected.padding_mask) < 1e-5


@pytest.mark.parametrize("shape", ["whisper", "whisper_own_length"])
@torch.no_grad()
def test_windows_of_any_number(onnx_packages, tmp_path, shape):
    """Recordings within a window of 1200 samples, of several windows, and to a sample's breadth of one."""
    encoder = ragged(SHAPES[shape])
    assert export_onnx(encoder, tmp_path / "model.onnx").largest < 1e-5
    deployed = OnnxEncoder(tmp_path / "model.onnx")
    for lengths in ((5000, 300), (1200,), (1201, 1), (1199, 640)):
        wavs = unequal_waveforms(lengths)
        expected = encoder(*encoder.prepare(wavs))
        states, mask = deployed.extract(wavs)
        assert torch.equal(mask, expected.padding_mask)
        assert largest_difference(states, expected.hidden_states, mask) < 1e-5


@pytest.mark.parametrize("shape", ["wavlm", "data2vec"])
@torch.no_grad()
def test_chunks_of_any_number(onnx_packages, tmp_path, shape):
    """A streaming model's whole: one frame, one chunk of 120 samples to a sample's breadth, many; and as streamed."""
    encoder = ragged(dataclasses.replace(SHAPES[shape], streaming=Streaming(6, 11), padding="exact"))
    assert export_onnx(encoder, tmp_path / "model.onnx").largest < 1e-5
    deployed = OnnxEncoder(tmp_path / "model.onnx")
    receptive = encoder.config.receptive_field
    for lengths in ((receptive,), (receptive + 100,), (receptive + 99,), (receptive + 120, 300), (5000, 300, 1999)):
        wavs = [wav + 0.3 for wav in unequal_waveforms(lengths)]
        expected = encoder(*encoder.prepare(wavs))
        states, mask = deployed.extract(wavs)
        assert torch.equal(mask, expected.padding_mask)
        assert largest_difference(states, expected.hidden_states, mask) < 1e-5
    (wav,) = unequal_waveforms((1234,))
    streamed = zip(*(output.hidden_states for output in encoder.stream(wav.split(77))), strict=True)
    states, _ = deployed.extract(wav)
    assert largest_difference(states, [torch.cat(state, 1) for state in streamed]) < 1e-5


@pytest.mark.parametrize(("shape", "history"), [("wavlm_prenorm", 11), ("wavlm", 0)])
@torch.no_grad()
def test_live_audio_chunk_by_chunk(onnx_packages, tmp_path, shape, history):
    """One graph for all chunks: what is carried goes out and in again, and the last chunk may be short."""
    config = dataclasses.replace(SHAPES[shape], streaming=Streaming(6, history), padding="exact")
    encoder = ragged(config)
    assert export_onnx(encoder, tmp_path / "live.onnx", live=True, provenance={"teacher": "tiny"}).largest < 1e-5
    deployed = OnnxStream(tmp_path / "live.onnx")
    assert deployed.header.provenance == {"teacher": "tiny"}
    for samples in (config.receptive_field, 500, 1234):
        (wav,) = unequal_waveforms((samples,))
        expected, found = list(encoder.stream(wav.split(77))), list(deployed.stream(wav.numpy()[None]))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.hidden_states[0].shape == theirs.hidden_states[0].shape
            assert largest_difference(ours.hidden_states, theirs.hidden_states) < 1e-5
    with pytest.raises(CheckpointError, match="a chunk of live audio"):
        OnnxEncoder(tmp_path / "live.onnx").extract(wav)
    with pytest.raises(DataError, match="receptive field"):
        list(deployed.stream([wav[:3]]))


def test_what_does_not_stream_is_not_exported_live(onnx_packages, tmp_path, tiny):
    with pytest.raises(ConfigError, match="attends to the whole"):
        export_onnx(tiny, tmp_path / "live.onnx", live=True)
    assert not any(tmp_path.iterdir())


@torch.no_grad()
def test_any_batch_and_any_length(exported):
    encoder, report = exported
    assert report.largest < 1e-5 and report.bytes == report.path.stat().st_size
    for lengths in ((4000, 2777, 1600), (5000,), (700, 9000), (1900,) * 5):
        wavs = [wav + 0.3 for wav in unequal_waveforms(lengths)]  # an offset that normalisation must take away
        expected = encoder(*encoder.prepare(wavs))
        states, mask = OnnxEncoder(report.path).extract(wavs)
        assert torch.equal(mask, expected.padding_mask)
        assert largest_difference(states, expected.hidden_states, mask) < 1e-5
    header = read_header(report.path)
    assert (header.config, header.provenance) == (encoder.config, {"teacher": "tiny"})


def test_a_file_says_nothing_of_where_it_was_made(exported):
    held = exported[1].path.read_bytes()
    package = Path(export.__file__).parent
    assert package.parts[-1] == "pruned_upstream" and str(package).encode() not in held
    assert not any(trace in held for trace in (b"stack_trace", b"site-packages", b"export.py", b"/torch/"))


def test_a_difference_is_refused_and_nothing_is_written(exported, tmp_path, monkeypatch):
    encoder, report = exported
    other = random_encoder(encoder.config, seed=7)
    monkeypatch.setattr(export, "_convert", lambda encoder, graph, path, **options: shutil.copyfile(report.path, path))
    with pytest.raises(PrunedUpstreamError, match="differ from torch's"):
        export_onnx(other, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_int8_is_smaller_and_close(onnx_packages, tmp_path):
    config = tiny_config(num_layers=1, embed_dim=96, ffn_dim=1536)
    encoder = random_encoder(config)
    report = export_onnx(encoder, tmp_path / "model.int8.onnx", int8=True)
    assert report.bytes < 0.6 * 4 * count_parameters(config)  # the graph itself weighs, too
    assert 1e-4 < max(report.relative) < 0.1
    wavs = unequal_waveforms()
    states, mask = OnnxEncoder(report.path).extract(wavs)
    assert largest_difference(states, encoder(*encoder.prepare(wavs)).hidden_states, mask) < 0.1


def test_foreign_warnings_are_not_heard(onnx_packages, tmp_path, tiny):
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            export_onnx(tiny, tmp_path / "model.onnx", int8=True)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert [record.getMessage() for record in heard] == []
    assert [str(warning.message) for warning in warned] == []
    assert [logger.level for logger in loggers] == levels


def test_a_missing_package_is_named(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrunedUpstreamError, match=r"onnxruntime.*pip install pruned_upstream\[onnx\]"):
        export_onnx(tiny, tmp_path / "model.onnx")


def test_the_name_says_what_it_is(tmp_path, tiny):
    with pytest.raises(PrunedUpstreamError, match=r"model\.bin does not end in \.onnx"):
        export_onnx(tiny, tmp_path / "model.bin")


def test_narrow_heads_go():
    encoder = ragged(tiny_config())
    smaller = drop_narrow_heads(encoder, 4)
    assert [head.id for head in smaller.config.layers[0].heads] == [0]
    assert smaller.config.layers[1:] == encoder.config.layers[1:]
    wavs = noise(0.2, 0.1)
    changes = change_of_hidden_states(encoder, smaller, wavs)
    assert changes[0] == 0 and 1e-4 < changes[1] < 1
    assert max(change_of_hidden_states(encoder, drop_narrow_heads(encoder, 0), wavs)) < 1e-6


@torch.no_grad()
def test_streaming_example(exported, tmp_path):
    """With a context of the whole recording on both sides, streaming gives what the whole recording gives."""
    soundfile = pytest.importorskip("soundfile")
    encoder, report = exported
    if encoder.config.normalize:
        pytest.skip("each window is normalised by itself")
    wav = unequal_waveforms((16123,))[0] * 0.1
    soundfile.write(tmp_path / "speech.wav", wav.numpy(), 16000, subtype="FLOAT")
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "stream_onnx.py"))
    features = example["stream"](example["open_model"](report.path), tmp_path / "speech.wav", chunk=7, context=60)
    expected = encoder.extract([wav]).hidden_states
    for state, whole in zip(map(np.concatenate, zip(*features, strict=True)), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(state), whole[0], rtol=1e-4, atol=1e-4)


def test_streaming_example_prints_its_latency(exported, tmp_path, monkeypatch, capsys):
    soundfile = pytest.importorskip("soundfile")
    encoder, report = exported
    soundfile.write(tmp_path / "speech.wav", np.random.default_rng(0).normal(0, 0.1, 16123), 16000, subtype="FLOAT")
    call = ["stream_onnx.py", str(report.path), str(tmp_path / "speech.wav"), "--chunk", "0.2", "--context", "0.1"]
    monkeypatch.setattr("sys.argv", call)
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "stream_onnx.py"), run_name="__main__")
    printed = capsys.readouterr().out
    states = f"{encoder.config.num_layers + 1} hidden states of {encoder.config.embed_dim}"
    assert f"{encoder.config.frames(16123)} frames of {states}" in printed
    typical, longest, computing = map(
        int, re.search(r"latency: 0\.(\d{3}) s, at most \d+\.(\d{3}) s \(of it computing: (\d+) ms", printed).groups()
    )
    assert abs(typical - 305 - computing) <= 1 and longest >= typical  # 0.2 s, 0.1 s and 80 samples
