"""Models that hear chunks: streamed with what is carried, they give what the masked whole gives."""

from __future__ import annotations

import dataclasses
from itertools import islice, zip_longest

import numpy as np
import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.distillation.student import as_streaming
from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import EncoderConfig, Head, Streaming, TransformerLayer
from pruned_upstream.model.streaming import mask

RAGGED = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1), Head(3, 0, 4)), True, 7),
    TransformerLayer(False, (), True, 0),
    TransformerLayer(True, (Head(1, 2, 2),), True, 9),
)
CONFIGS = {name: config for name, config in SHAPES.items() if config.log_mel is None}
CONFIGS["ragged"] = dataclasses.replace(tiny_config(), layers=RAGGED)


def streaming_encoder(name, chunk=6, history=11):
    return random_encoder(dataclasses.replace(CONFIGS[name], streaming=Streaming(chunk, history)))


def joined(outputs):
    return [torch.cat(states, 1) for states in zip(*(output.hidden_states for output in outputs), strict=True)]


def pieces_of(wav, sizes):
    start = 0
    while start < len(wav):
        for size in sizes:
            yield wav[start : start + size]
            start += size
            if start >= len(wav):
                return


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize(("samples", "history"), [(1600, 11), (1639, 0), (2000, 1000), (70, 11)])
@torch.no_grad()
def test_streamed_is_the_masked_whole(name, samples, history):
    encoder = streaming_encoder(name, history=history)
    (wav,) = unequal_waveforms((samples,))
    whole = encoder.extract(wav)
    outputs = list(encoder.stream(pieces_of(wav, (7, 500, 33))))
    assert all(output.hidden_states[0].size(1) == 6 for output in outputs[:-1])
    streamed = joined(outputs)
    assert streamed[-1].shape == whole.hidden_states[-1].shape
    assert largest_difference(streamed, whole.hidden_states) < 1e-5
    assert largest_difference([torch.cat([o.projected for o in outputs], 1)], [whole.projected]) < 1e-5


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.no_grad()
def test_no_frame_sees_beyond_its_chunk(name):
    encoder = streaming_encoder(name)
    (wav,) = unequal_waveforms((1600,))
    changed = wav.clone()
    end = 4 * 6 * 20 + encoder.config.receptive_field - 20  # of what four chunks hear
    changed[end:] = torch.randn(1600 - end)
    before, after = encoder.extract(wav).hidden_states, encoder.extract(changed).hidden_states
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[:, :24], b[:, :24], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(a[:, 24:], b[:, 24:], atol=1e-2)


@torch.no_grad()
def test_a_waveform_is_one_piece(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    encoder = streaming_encoder("wavlm")
    (wav,) = unequal_waveforms((1600,))
    soundfile.write(tmp_path / "speech.wav", wav.numpy(), 16000, subtype="FLOAT")
    expected = joined(encoder.stream([wav]))
    for form in (wav, wav.numpy(), wav.tolist(), tmp_path / "speech.wav", str(tmp_path / "speech.wav")):
        assert largest_difference(joined(encoder.stream(form)), expected) < 1e-6


@torch.no_grad()
def test_a_chunk_comes_as_soon_as_it_was_heard():
    encoder = streaming_encoder("wavlm")
    (wav,) = unequal_waveforms((1600,))
    needed = 6 * 20 + encoder.config.receptive_field - 20
    given = []

    def microphone():
        for start in range(0, 1600, 10):
            given.append(start + 10)
            yield wav[start : start + 10]

    next(encoder.stream(microphone()))
    assert given[-1] - 10 < needed <= given[-1]


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.no_grad()
def test_padding_moves_nothing(name):
    """What is heard later does not count: a batch gives what each recording gives alone, group norm or not."""
    encoder = as_streaming(random_encoder(CONFIGS[name]), 6 * 20 / 16000, 11 * 20 / 16000)
    assert encoder.config.streaming == Streaming(6, 11)
    wavs = unequal_waveforms((2600, 640, 1111))
    batch = encoder.extract(wavs)
    for number, wav in enumerate(wavs):
        alone = encoder.extract(wav).hidden_states
        own = [state[number : number + 1, : alone[0].size(1)] for state in batch.hidden_states]
        assert largest_difference(own, alone) < 1e-5
    assert all(state.isfinite().all() for state in batch.hidden_states)


def test_the_mask():
    padding = torch.tensor([[False] * 4 + [True]])
    rows = mask(5, Streaming(2, 1), padding, torch.device("cpu"))[0].int().tolist()
    assert rows == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_one_chunk_that_holds_everything_differs_in_nothing_but_the_norms():
    """For a model without norms over time, a chunk as long as the recording is the model itself."""
    encoder = random_encoder(dataclasses.replace(SHAPES["data2vec"], normalize=False, conv_pos_depth=1))
    waveforms = torch.randn(1, 1600)
    frames = encoder.config.frames(1600)
    chunked = as_streaming(encoder, frames * 20 / 16000, 0)
    assert chunked.config.streaming == Streaming(frames, 0)
    with torch.no_grad():
        assert largest_difference(chunked(waveforms).hidden_states, encoder(waveforms).hidden_states) < 1e-5


def test_every_parameter_learns():
    encoder = streaming_encoder("wavlm").train()
    waveforms, lengths = encoder.prepare(unequal_waveforms())
    sum(state.square().sum() for state in encoder(waveforms, lengths).hidden_states).backward()
    silent = {name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert all(name.endswith("k_proj.bias") for name in silent)
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@torch.no_grad()
def test_a_file_says_that_it_streams(tmp_path):
    encoder = streaming_encoder("wavlm")
    save(tmp_path / "model.safetensors", encoder)
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.config.streaming == Streaming(6, 11)
    (wav,) = unequal_waveforms((700,))
    assert largest_difference(joined(loaded.stream([wav])), encoder.extract(wav).hidden_states) < 1e-5


def test_what_cannot_be_streamed_says_so(tiny):
    with pytest.raises(ConfigError, match="recipe `streaming`"):
        list(tiny.stream([torch.randn(1600)]))
    encoder = streaming_encoder("wavlm")
    with pytest.raises(DataError, match="receptive field"):
        list(encoder.stream([torch.randn(3)]))
    with pytest.raises(DataError, match="NaN"):
        list(encoder.stream([torch.full((200,), torch.nan)]))
    with pytest.raises(ConfigError, match="use `stream`"):
        encoder.extract(torch.randn(1600), chunk_seconds=1)
    with pytest.raises(ConfigError, match="log-mel"):
        dataclasses.replace(SHAPES["whisper"], streaming=Streaming(6, 11))
    with pytest.raises(ConfigError, match="streaming.chunk"):
        as_streaming(tiny, 0.0, 1.0)
    for seconds in (float("nan"), float("inf"), "a", None, True, 10**400):
        with pytest.raises(ConfigError, match="chunk_seconds is .*; it must be a number of seconds"):
            as_streaming(tiny, seconds, 1.0)
        with pytest.raises(ConfigError, match="history_seconds is .*; it must be a number of seconds"):
            as_streaming(tiny, 1.0, seconds)
    tree = tiny.config.to_json().replace('"streaming": null', '"streaming": {"chunk": 6}')
    with pytest.raises(ConfigError, match="history"):
        EncoderConfig.from_json(tree)


@torch.no_grad()
def test_packets_as_microphones_give_them():
    """One sample, nothing at all, everything; two recordings turn by turn."""
    encoder = streaming_encoder("wavlm")
    (recording,) = unequal_waveforms((1234,))
    whole = encoder.extract(recording).hidden_states
    single = iter(recording.split(1))
    with_nothing = (torch.cat(list(piece)) if piece else torch.zeros(0) for piece in batched(single, 0, 1, 500, 0, 733))
    empty = [[], np.zeros(0, np.int16), torch.zeros(1, 0), *recording.split(700), []]
    streams = [encoder.stream(pieces) for pieces in (recording.split(1), with_nothing, empty)]
    heard: list[list] = [[] for _ in streams]
    for outputs in zip_longest(*streams):
        for own, output in zip(heard, outputs, strict=True):
            own += [] if output is None else [output]
    for own in heard:
        assert largest_difference(joined(own), whole) < 1e-5


def batched(items, *sizes):
    return [list(islice(items, size)) for size in sizes]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (5, "int is no recording"),
        (None, "NoneType is no recording"),
        ([torch.zeros(2, 500)], "a piece of it holds 2 waveforms"),
        ([], "waveforms of 0 samples"),
        ([torch.zeros(0)] * 3, "waveforms of 0 samples"),
    ],
)
def test_pieces_that_are_none(pieces, message):
    encoder = streaming_encoder("wavlm")
    with pytest.raises(DataError, match=message):
        next(encoder.stream(pieces))
