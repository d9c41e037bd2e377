"""gated == masked == compact, on valid frames, in every corner of what gates can close."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import Head, TransformerLayer
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.gating import EncoderGates, LayerGates
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning import compaction
from pruned_upstream.pruning.compaction import TOLERANCE, compact, compact_config, fold, verify
from pruned_upstream.pruning.gates import GateSettings, encoder_gates, gate_shapes

D, WIDTH, HEADS, FFN = 24, 6, 4, 40


def dense_layer_gates() -> dict[str, torch.Tensor]:
    return {
        "qk": torch.ones(HEADS, WIDTH),
        "vo": torch.ones(HEADS, WIDTH),
        "ffn": torch.ones(FFN),
        "attention": torch.ones(()),
        "feed_forward": torch.ones(()),
    }


def layer_gates(**changes) -> LayerGates:
    gates = dense_layer_gates() | changes
    return LayerGates(**{kind: gate.flatten() if gate.dim() == 2 else gate for kind, gate in gates.items()})


def without_heads(gate: torch.Tensor, *heads: int) -> torch.Tensor:
    gate = gate.clone()
    gate[list(heads)] = 0
    return gate


def assert_three_states_agree(encoder: Encoder, gates: EncoderGates, tolerance: float = TOLERANCE) -> Encoder:
    """Gated, folded and compact hidden states on a batch of unequal lengths; returns the compact encoder."""
    smaller, masked = compact(encoder, gates), fold(encoder, gates)
    dtype = next(encoder.parameters()).dtype
    waveforms, lengths = encoder.prepare([wav.to(dtype) for wav in unequal_waveforms((500, 420, 300))])
    with torch.no_grad():
        gated = encoder(waveforms, lengths, gates=gates)
        for other in (masked, smaller):
            states = other(waveforms, lengths).hidden_states
            assert largest_difference(states, gated.hidden_states, gated.padding_mask) <= tolerance
    assert smaller.config == compact_config(encoder.config, gates)
    assert sum(p.numel() for p in smaller.parameters()) == count_parameters(smaller.config)
    return smaller


def in_double(encoder: Encoder, gates: EncoderGates) -> tuple[Encoder, EncoderGates]:
    """Without rounding, which a layer norm over few channels amplifies, a difference is the fault of the cut."""

    def double(gate):
        return None if gate is None else gate.double()

    layers = [LayerGates(*map(double, layer)) for layer in gates.layers]
    return encoder.double(), EncoderGates(layers, None if gates.conv is None else [double(g) for g in gates.conv])


EXACT = 1e-10  # in double precision


half = torch.tensor([1.0, 0.0] * 3)

CORNERS = {
    "nothing closed": (layer_gates(), TransformerLayer(True, tuple(Head(i, 6, 6) for i in range(4)), True, 40)),
    "some q/k, other v/o": (
        layer_gates(qk=half.repeat(4, 1), vo=(1 - half).repeat(4, 1)),
        TransformerLayer(True, tuple(Head(i, 3, 3) for i in range(4)), True, 40),
    ),
    "a head without q/k attends by position": (
        layer_gates(qk=without_heads(torch.ones(4, 6), 1)),
        TransformerLayer(True, (Head(0, 6, 6), Head(1, 0, 6), Head(2, 6, 6), Head(3, 6, 6)), True, 40),
    ),
    "no head has q/k": (
        layer_gates(qk=torch.zeros(4, 6)),
        TransformerLayer(True, tuple(Head(i, 0, 6) for i in range(4)), True, 40),
    ),
    "heads without v/o are gone": (
        layer_gates(vo=without_heads(torch.ones(4, 6), 0, 2)),
        TransformerLayer(True, (Head(1, 6, 6), Head(3, 6, 6)), True, 40),
    ),
    "one dimension is left": (
        layer_gates(
            qk=torch.zeros(4, 6), vo=torch.zeros(4, 6).index_put((torch.tensor(2), torch.tensor(4)), torch.tensor(1.0))
        ),
        TransformerLayer(True, (Head(2, 0, 1),), True, 40),
    ),
    "attention is its bias": (layer_gates(vo=torch.zeros(4, 6)), TransformerLayer(True, (), True, 40)),
    "attention is a fraction of its bias": (
        layer_gates(vo=torch.zeros(4, 6), attention=torch.tensor(0.3)),
        TransformerLayer(True, (), True, 40),
    ),
    "feed-forward is a fraction of its bias": (
        layer_gates(ffn=torch.zeros(40), feed_forward=torch.tensor(0.3)),
        TransformerLayer(True, tuple(Head(i, 6, 6) for i in range(4)), True, 0),
    ),
    "attention gone": (layer_gates(attention=torch.tensor(0.0)), TransformerLayer(False, (), True, 40)),
    "feed-forward gone": (
        layer_gates(feed_forward=torch.tensor(0.0)),
        TransformerLayer(True, tuple(Head(i, 6, 6) for i in range(4)), False, 0),
    ),
    "all gone": (
        layer_gates(attention=torch.tensor(0.0), feed_forward=torch.tensor(0.0)),
        TransformerLayer(False, (), False, 0),
    ),
    "fractions": (
        layer_gates(
            qk=torch.linspace(0.1, 1, 24),
            vo=torch.linspace(1, 0.1, 24),
            ffn=torch.linspace(0.2, 0.9, 40),
            attention=torch.tensor(0.7),
            feed_forward=torch.tensor(0.4),
        ),
        TransformerLayer(True, tuple(Head(i, 6, 6) for i in range(4)), True, 40),
    ),
    "not gated": (LayerGates(), TransformerLayer(True, tuple(Head(i, 6, 6) for i in range(4)), True, 40)),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("corner", CORNERS)
def test_corner(tiny, corner, place):
    """Each corner in the first layer (which holds the bias table in public code), the middle and the last."""
    closed, left = CORNERS[corner]
    gates = EncoderGates([closed if i == place else layer_gates() for i in range(3)])
    assert assert_three_states_agree(tiny, gates).config.layers[place] == left


@pytest.mark.parametrize("corner", CORNERS)
def test_corner_in_every_layer_of_every_shape(shape, corner):
    closed, left = CORNERS[corner]
    smaller = assert_three_states_agree(random_encoder(shape), EncoderGates([closed] * 3))
    assert smaller.config.layers == (left,) * 3
    if not left.heads:
        names = smaller.state_dict().keys()
        assert not any("grep" in name or "q_proj" in name for name in names)
        assert ("encoder.layers.0.self_attn.out_proj.bias" in names) == left.attention


def test_what_stays_of_a_layer_that_lost_both_sublayers(tiny):
    closed, _ = CORNERS["all gone"]
    smaller = compact(tiny, EncoderGates([closed] * 3))
    names = [name for name in smaller.state_dict() if name.startswith("encoder.layers.0.")]
    norms = ("self_attn_layer_norm", "final_layer_norm")
    assert sorted(names) == sorted(f"encoder.layers.0.{norm}.{p}" for norm in norms for p in ("weight", "bias"))
    assert "encoder.relative_attention_bias.weight" in smaller.state_dict()


def test_fractions_are_folded_once(tiny):
    z = torch.linspace(0.1, 1, 24)
    weights = fold(tiny, EncoderGates([layer_gates(qk=z)] + [LayerGates()] * 2)).state_dict()
    old = tiny.state_dict()
    name = "encoder.layers.0.self_attn"
    torch.testing.assert_close(weights[f"{name}.q_proj.weight"], old[f"{name}.q_proj.weight"] * z[:, None])
    torch.testing.assert_close(weights[f"{name}.q_proj.bias"], old[f"{name}.q_proj.bias"] * z)
    changed = {n for n in weights if not torch.equal(weights[n], old[n])}
    assert changed == {f"{name}.q_proj.weight", f"{name}.q_proj.bias"}


def test_the_original_is_left_alone(tiny):
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    smaller = compact(tiny, EncoderGates([layer_gates()] * 3))
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())


def draw_everything(random_gates, config, asked, open_share, fractional, seed):
    return encoder_gates(config, random_gates(config, asked, seed=seed, open_share=open_share, fractional=fractional))


@given(
    name=st.sampled_from(sorted(SHAPES)),
    asked=st.builds(GateSettings, fine_grained=st.booleans(), multi_scale=st.booleans(), conv=st.booleans()),
    open_share=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    fractional=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_random_patterns(random_gates, name, asked, open_share, fractional, seed):
    config = SHAPES[name]
    gates = draw_everything(random_gates, config, asked, open_share, fractional, seed)
    assert_three_states_agree(*in_double(random_encoder(config, seed=seed), gates), EXACT)


@pytest.mark.parametrize("fractional", [False, True])
def test_channels(shape, random_gates, fractional):
    """Filters, their norms and their readers, in both extractor modes; the feature norm keeps its dense statistics."""
    gates = draw_everything(random_gates, shape, GateSettings(conv=True), 0.5, fractional, seed=4)
    gates = EncoderGates([LayerGates()] * 3, gates.conv)
    smaller = assert_three_states_agree(*in_double(random_encoder(shape), gates), EXACT)
    gated = gates.conv if shape.has_projection else gates.conv[:-1]
    living = smaller.config.conv[: len(gated)]
    assert [layer.channels for layer in living] == [int(gate.count_nonzero()) for gate in gated]
    assert all(layer.channels < layer.dense_channels for layer in living)
    assert smaller.config.feature_scale == (fractional and shape.has_projection)


@pytest.mark.parametrize("asked", ["tf32", "legacy", "cudnn alone", "nothing"])
def test_full_precision_leaves_settings_as_they_were(asked):
    """torch has two ways to allow less than single precision, and refuses to read one where the other was used."""
    program = SETTINGS.format(asked=asked)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SETTINGS = """
import torch
from pruned_upstream.pruning.compaction import full_precision

backends, asked = torch.backends, "{asked}"
if asked == "tf32":
    backends.fp32_precision = "tf32"
elif asked == "legacy":
    torch.set_float32_matmul_precision("high")
elif asked == "cudnn alone":
    backends.cudnn.allow_tf32 = False
places = [backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]


def now():
    return [place.fp32_precision for place in places] + [backends.cudnn.enabled, backends.cudnn.benchmark]


before = now()
with full_precision():
    within = now()
    assert within[0] == within[2] == within[3] == within[4] == "ieee", within
    assert within[5:] == before[5:], within
assert now() == before, (before, now())
if asked == "legacy":
    assert torch.get_float32_matmul_precision() == "high"
"""


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_channels_in_single_precision(random_gates, mode):
    config = tiny_config(conv_layers=((64, 10, 5), (64, 3, 2), (64, 2, 2)), extractor_mode=mode)
    gates = draw_everything(random_gates, config, GateSettings(conv=True), 0.5, True, seed=4)
    assert_three_states_agree(random_encoder(config), gates)


def test_channels_of_a_front_end_as_wide_as_the_transformer(random_gates):
    config = tiny_config(conv_layers=((16, 10, 5), (24, 4, 4)))
    gates = draw_everything(random_gates, config, GateSettings(conv=True), 0.5, True, seed=0)
    smaller = assert_three_states_agree(random_encoder(config), gates)
    assert smaller.config.conv[-1].channels == 24 and smaller.config.conv[0].channels < 16


def test_a_compact_model_can_be_pruned_again(tiny):
    """Gates follow the rows that a layer has; heads keep their dense numbers through both rounds."""
    once = compact(tiny, EncoderGates([layer_gates(vo=without_heads(torch.ones(4, 6), 0))] * 3))
    vo = torch.ones(18)
    vo[6:12] = 0  # the second of the living heads 1, 2, 3
    again = assert_three_states_agree(once, EncoderGates([LayerGates(vo=vo)] * 3))
    assert [head.id for head in again.config.layers[0].heads] == [1, 3]


def test_the_file_gives_the_model_back(tiny, random_gates, tmp_path):
    gates = draw_everything(random_gates, tiny.config, GateSettings(conv=True), 0.4, True, seed=7)
    smaller = compact(tiny, gates)
    save(tmp_path / "compact.safetensors", smaller)
    wavs = unequal_waveforms()
    with torch.no_grad():
        again = load(tmp_path / "compact.safetensors").extract(wavs).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(again, smaller.extract(wavs).hidden_states, strict=True))


def test_every_channel_closed(tiny):
    gates = EncoderGates([LayerGates()] * 3, [None, torch.zeros(16), None])
    with pytest.raises(PrunedUpstreamError, match="every channel of convolution 1"):
        compact(tiny, gates)


@pytest.mark.parametrize(
    ("gates", "where"),
    [
        (EncoderGates([LayerGates(), layer_gates(ffn=torch.full((40,), torch.nan)), LayerGates()]), "layer 2, ffn"),
        (EncoderGates([LayerGates()] * 3, [torch.full((16,), torch.inf), None, None]), "convolution 0"),
    ],
)
def test_gates_that_are_not_numbers(tiny, gates, where):
    with pytest.raises(PrunedUpstreamError, match=where):
        compact(tiny, gates)


def test_verification_refuses_what_differs(tiny):
    gates = EncoderGates([layer_gates(attention=torch.tensor(0.5))] * 3)
    smaller = compact(tiny, gates)
    batch = tiny.prepare(unequal_waveforms())
    with torch.no_grad():
        smaller.encoder.layers[1].self_attn.q_proj.weight[3] *= 1.01
    with pytest.raises(PrunedUpstreamError, match="does not compute what the gated one does"):
        verify(tiny, gates, smaller, [batch])
    with torch.no_grad():
        smaller.encoder.layers[1].fc1.bias[0] = torch.nan
    with pytest.raises(PrunedUpstreamError, match="nan"):
        verify(tiny, gates, smaller, [batch])
    with pytest.raises(PrunedUpstreamError, match="no batch"):
        verify(tiny, gates, smaller, [])


def test_what_rounding_alone_moves_is_no_difference(tiny, monkeypatch):
    """Whisper base's real weights differed by 1.9e-05 in single precision: a few dimensions dwarf all others."""
    monkeypatch.setattr(compaction, "TOLERANCE", 1e-12)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        k: (torch.rand(s, generator=generator) > 0.3).float()
        for k, s in gate_shapes(tiny.config, GateSettings()).items()
    }
    gates = encoder_gates(tiny.config, drawn | {k: torch.ones(3) for k in ("attention", "feed_forward")})
    smaller = compact(tiny, gates)
    assert 0 < verify(tiny, gates, smaller, [tiny.prepare(unequal_waveforms())]) <= 1e-12
    assert next(tiny.parameters()).dtype == torch.float32, "the models stay as they were"


def test_verification_leaves_the_mode_as_it_was(tiny):
    gates = EncoderGates([layer_gates()] * 3)
    smaller = compact(tiny, gates)
    tiny.train()
    tiny.encoder.layers[0].dropout = dataclasses.replace(tiny.dropout, hidden=0.5)
    assert verify(tiny, gates, smaller, [tiny.prepare(unequal_waveforms())]) <= TOLERANCE
    assert tiny.training and not smaller.training


def test_verification_is_the_largest_difference(tiny, random_gates):
    """Of padded batches and of one utterance alone, on valid frames."""
    gates = draw_everything(random_gates, tiny.config, GateSettings(), 0.5, True, seed=2)
    smaller = compact(tiny, gates)
    batches = [tiny.prepare(unequal_waveforms()), (unequal_waveforms()[0][None], None)]
    with torch.no_grad():
        pairs = [(smaller(*batch), tiny(*batch, gates=gates)) for batch in batches]
    differences = [largest_difference(a.hidden_states, b.hidden_states, b.padding_mask) for a, b in pairs]
    assert verify(tiny, gates, smaller, batches) == max(differences) <= TOLERANCE


def test_before_it_was_pruned_a_compact_encoder_was_its_teacher(shape, random_gates) -> None:
    """Its factors of channels, too, are of the pruning's making: no count of a dense encoder may have them."""
    encoder = random_encoder(shape)
    drawn = random_gates(shape, GateSettings(conv=True), seed=0, open_share=0.7, fractional=True)
    smaller = compact(encoder, encoder_gates(shape, drawn))
    assert smaller.config.feature_scale == shape.has_projection
    assert smaller.config.densified() == shape
