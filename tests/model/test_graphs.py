"""The transformer replayed by buckets: exact, and only where nothing could be missed. Recording needs a GPU."""

from __future__ import annotations

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms
from torch import nn
from torch.nn.utils import parametrize

from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.graphs import FrameGraphs


class PlainRecording:
    """Runs the forward pass anew on the same buffers, where a GPU would replay it."""

    made = 0

    def __init__(self, forward, x, mask):
        type(self).made += 1
        self.forward, self.x, self.mask = forward, x, mask
        self.states = torch.stack(forward(x, mask)).fill_(torch.nan)

    def replay(self):
        self.states.copy_(torch.stack(self.forward(self.x, self.mask)))


@pytest.fixture(autouse=True)
def count_recordings(monkeypatch):
    monkeypatch.setattr(PlainRecording, "made", 0)


def replayed(encoder, **options):
    encoder.graphs = FrameGraphs(record=PlainRecording, bucket=16, **options)
    return encoder


@pytest.mark.parametrize("family", sorted(SHAPES))
@torch.no_grad()
def test_padding_to_the_bucket_changes_nothing(family):
    plain = random_encoder(SHAPES[family])
    ours = replayed(copy.deepcopy(plain))
    for lengths in ((1600,), (1600, 1111, 640), (640, 500, 640), (1599,)):  # the longest first leaves something behind
        wavs = unequal_waveforms(lengths)
        found, expected = ours.extract(wavs), plain.extract(wavs)
        assert largest_difference(found.hidden_states, expected.hidden_states, expected.padding_mask) < 1e-5
        assert found.hidden_states[0].shape == expected.hidden_states[0].shape


@torch.no_grad()
def test_one_recording_for_a_bucket():
    encoder = replayed(random_encoder(tiny_config()), most=2)
    for samples in (400, 500, 600, 330):  # 18 to 29 frames: the second bucket, and once the first
        encoder.extract([torch.randn(samples)])
    assert PlainRecording.made == 2
    for samples in (1600, 400):  # a third bucket, for which the first went that was asked for longest ago
        encoder.extract([torch.randn(samples)])
    assert PlainRecording.made == 4


@torch.no_grad()
def test_what_was_given_out_is_not_written_again():
    encoder = replayed(random_encoder(tiny_config()))
    first = encoder.extract([torch.randn(500)]).hidden_states[-1]
    kept = first.clone()
    encoder.extract([torch.randn(500)])
    assert torch.equal(first, kept)


@torch.no_grad()
def test_weights_that_change_are_seen():
    encoder = replayed(random_encoder(tiny_config()))
    plain = random_encoder(tiny_config(), seed=5)
    wavs = unequal_waveforms((500,))
    encoder.extract(wavs)
    encoder.load_state_dict(plain.state_dict())
    expected = plain.extract(wavs).hidden_states
    assert largest_difference(encoder.extract(wavs).hidden_states, expected) < 1e-5
    encoder.load_state_dict({name: tensor.clone() for name, tensor in plain.state_dict().items()}, assign=True)
    assert largest_difference(encoder.extract(wavs).hidden_states, expected) < 1e-5
    assert PlainRecording.made == 2


def test_gradients_hooks_and_training_are_never_replayed():
    encoder = replayed(random_encoder(tiny_config()))
    wavs = unequal_waveforms((500,))
    assert encoder.extract(wavs).hidden_states[-1].requires_grad
    heard = []
    handle = encoder.encoder.layers[1].fc1.register_forward_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        encoder.extract(wavs)
        assert heard == [1] and PlainRecording.made == 0
        handle.remove()
        encoder.train().extract(wavs)
        assert PlainRecording.made == 0
        encoder.eval().extract(wavs)
    assert PlainRecording.made == 1


def test_inference_mode_and_without_gradients_share_a_recording():
    encoder = replayed(random_encoder(tiny_config()))
    wavs = unequal_waveforms((500,))
    with torch.inference_mode():
        first = encoder.extract(wavs).hidden_states[-1].clone()
    with torch.no_grad():
        assert torch.equal(encoder.extract(wavs).hidden_states[-1], first)
    assert PlainRecording.made == 1


def test_copies_and_files_begin_anew(tmp_path):
    encoder = replayed(random_encoder(tiny_config()))
    with torch.no_grad():
        encoder.extract(unequal_waveforms((500,)))
    assert not copy.deepcopy(encoder).graphs._kept
    assert not pickle.loads(pickle.dumps(encoder)).graphs._kept
    save(tmp_path / "model.safetensors", encoder)
    assert load(tmp_path / "model.safetensors").graphs is None
    on_cpu = load(tmp_path / "model.safetensors", graphs=True)
    with torch.no_grad():
        on_cpu.extract(unequal_waveforms((500,)))  # which has no graphs to record
    assert not on_cpu.graphs._kept


@torch.no_grad()
def test_a_recording_holds_no_cast_that_ends_with_autocast():
    """A graph reads memory where it lay: casts of weights that autocast keeps are freed when it ends."""
    asked = []

    class Asked(PlainRecording):
        def __init__(self, forward, x, mask):
            asked.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
            super().__init__(forward, x, mask)

    encoder = random_encoder(tiny_config())
    encoder.graphs = FrameGraphs(record=Asked, bucket=16)
    plain = random_encoder(tiny_config())
    wavs = unequal_waveforms((500,))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.extract(wavs).hidden_states
            assert torch.is_autocast_cache_enabled()
            expected = plain.extract(wavs).hidden_states
        assert largest_difference(found, expected) < 0.05
    encoder.extract(wavs)
    assert asked == [(True, False), (False, True)]


@torch.no_grad()
def test_what_leaves_every_parameter_in_its_place_is_seen():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    encoder, wavs = replayed(random_encoder(tiny_config())), unequal_waveforms((500,))
    before = encoder.extract(wavs).hidden_states
    layer = encoder.encoder.layers[0]
    layer.fc1.bias = None
    encoder.extract(wavs)
    made = PlainRecording.made
    parametrize.register_parametrization(layer.fc1, "weight", Doubled())
    encoder.eval().extract(wavs)
    assert PlainRecording.made == made + 1
    layer.fc2.forward = lambda x: torch.zeros(*x.shape[:-1], 24)
    after = encoder.extract(wavs).hidden_states
    assert PlainRecording.made == made + 1 and largest_difference(after, before) > 1e-3


def test_threads_do_not_write_into_each_others_recording():
    encoder = replayed(random_encoder(tiny_config()))
    waveforms = [[torch.randn(500)] for _ in range(4)]
    with torch.no_grad():
        wanted = [encoder.extract(wavs).hidden_states for wavs in waveforms]
    (recording,) = encoder.graphs._kept.values()
    plain, at_once = recording.replay, []

    def replay():
        at_once.append(1)
        time.sleep(0.02)
        assert len(at_once) == 1
        plain()
        at_once.pop()

    recording.replay = replay

    @torch.no_grad()
    def extract(wavs):
        return encoder.extract(wavs).hidden_states

    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(extract, waveforms), wanted, strict=True):
            assert largest_difference(found, expected) == 0
