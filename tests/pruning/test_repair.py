"""Closed-form repair: exact where nothing is cut, never worse where it is fitted, in every corner of a shape."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms
from torch import Tensor, nn

from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.gating import EncoderGates, LayerGates
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.repair import repair

D, HEADS, WIDTH, FFN = 24, 4, 6, 40


def speech(encoder: Encoder, batches: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [encoder.prepare(unequal_waveforms((4000, 3000, 1500), seed=seed)) for seed in range(batches)]


def gates(layers: int = 3, seed: int = 0, **closed: Tensor) -> EncoderGates:
    """Half of everything at random, another half in each layer, and `closed` in the middle layer."""
    generator = torch.Generator().manual_seed(seed)

    def half(size: int) -> Tensor:
        return (torch.rand(size, generator=generator) < 0.5).float()

    found = [LayerGates(qk=half(D), vo=half(D), ffn=half(FFN)) for _ in range(layers)]
    found[1] = found[1]._replace(**closed)
    return EncoderGates(found)


@torch.no_grad()
def stream_error(student: Encoder, teacher: Encoder, heard: list[tuple[Tensor, Tensor]]) -> float:
    """As the report counts it, from whole forward passes: squared distance over variance, mean over the layers."""
    ours, theirs = [], []
    for waveforms, lengths in heard:
        a, b = student(waveforms, lengths), teacher(waveforms, lengths)
        valid = ~b.padding_mask
        # the report compares outputs of layers, before the final norm that pre-norm models apply to the last
        ours.append(torch.stack([state[valid] for state in a.hidden_states[1:]]))
        theirs.append(torch.stack([state[valid] for state in b.hidden_states[1:]]))
    ours, theirs = torch.cat(ours, 1).double(), torch.cat(theirs, 1).double()
    shares = (ours - theirs).square().sum((1, 2)) / (theirs - theirs.mean(1, keepdim=True)).square().sum((1, 2))
    return shares.mean().item()


def test_where_nothing_is_cut_nothing_moves(shape) -> None:
    teacher = random_encoder(shape)
    found = repair(teacher, teacher, speech(teacher, 2))
    assert found.before == found.after == 0.0
    for (name, ours), theirs in zip(found.encoder.state_dict().items(), teacher.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_where_a_cut_can_be_undone_it_is() -> None:
    """A feed-forward dimension that says what another says is no loss: the other takes over its column."""
    teacher = random_encoder(tiny_config())
    with torch.no_grad():
        for layer in teacher.encoder.layers:
            layer.fc1.weight[1::2] = layer.fc1.weight[::2]
            layer.fc1.bias[1::2] = layer.fc1.bias[::2]
    odd_closed = LayerGates(ffn=torch.tensor([1.0, 0.0] * (FFN // 2)))
    student = compact(teacher, EncoderGates([odd_closed] * 3))
    heard = speech(teacher)
    found = repair(teacher, student, heard, damping=1e-9)
    assert found.before > 0.1
    assert found.after < 1e-9
    with torch.no_grad():
        ours, theirs = found.encoder(*heard[0]), teacher(*heard[0])
    assert largest_difference(ours.hidden_states, theirs.hidden_states, theirs.padding_mask) < 1e-4


CORNERS = {
    "ragged heads": {},
    "a head without q/k": {"qk": torch.tensor([0.0] * 6 + [1.0] * 18)},
    "no head": {"vo": torch.zeros(D)},
    "no feed-forward dimension": {"ffn": torch.zeros(FFN)},
    "no attention": {"attention": torch.tensor(0.0)},
    "no feed-forward": {"feed_forward": torch.tensor(0.0)},
    "nothing in a layer": {"attention": torch.tensor(0.0), "feed_forward": torch.tensor(0.0)},
}


@pytest.mark.parametrize(
    ("shape", "corner"),
    [(shape, corner) for corner in CORNERS for shape in ("wavlm", "wav2vec2_prenorm")]
    + [(shape, "ragged heads") for shape in sorted(SHAPES.keys() - {"wavlm", "wav2vec2_prenorm"})],
)
def test_it_is_never_worse_on_what_it_was_fitted_to(shape: str, corner: str) -> None:
    teacher = random_encoder(SHAPES[shape])
    student = compact(teacher, gates(**CORNERS[corner]))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    heard = speech(teacher, 3)
    found = repair(teacher, student, heard)
    assert found.after < found.before
    assert found.encoder.config == student.config
    assert found.frames == sum(int((~teacher(*batch).padding_mask).sum()) for batch in heard)
    if not SHAPES[shape].layer_norm_first:
        assert stream_error(student, teacher, heard) == pytest.approx(found.before, rel=1e-5)
        assert stream_error(found.encoder, teacher, heard) == pytest.approx(found.after, rel=1e-5)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name]), "the student that was given has changed"
    changed = {name for name, tensor in found.encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert {name.split(".")[-2] for name in changed} <= {"out_proj", "fc2"}


def test_a_sublayer_comes_as_near_as_least_squares_can() -> None:
    """The first attention sublayer, whose input no repair changes, against a solver that knows nothing of Gram
    matrices."""
    teacher = random_encoder(tiny_config(layer_norm_first=True)).double()
    student = compact(teacher, EncoderGates([LayerGates(vo=gates().layers[0].vo), LayerGates(), LayerGates()]))
    heard = [(waveforms.double(), lengths) for waveforms, lengths in speech(teacher, 3)]
    reads, wanted, had = [], [], []
    output, theirs = student.encoder.layers[0].self_attn.out_proj, teacher.encoder.layers[0].self_attn.out_proj
    output.register_forward_pre_hook(lambda module, inputs: reads.append(inputs[0]))
    output.register_forward_hook(lambda module, inputs, out: had.append(out))
    theirs.register_forward_hook(lambda module, inputs, out: wanted.append(out))
    with torch.no_grad():
        valid = [~student(*batch).padding_mask for batch in heard]
        for batch in heard:
            teacher(*batch)
    c, y, old = (torch.cat([x[v] for x, v in zip(xs, valid, strict=True)]) for xs in (reads, wanted, had))
    damping = 0.3
    size = damping * c.square().mean(0).mean() * len(c)
    rows = torch.cat([c, size.sqrt() * torch.eye(c.size(1)).double()])
    ones = torch.cat([torch.ones(len(c), 1), torch.zeros(c.size(1), 1)]).double()
    error = torch.cat([y - old, torch.zeros(c.size(1), D).double()])
    step = torch.linalg.lstsq(torch.cat([rows, ones], 1), error).solution
    weight, bias = output.weight.detach() + step[:-1].t(), output.bias.detach() + step[-1]
    found = repair(teacher, student, heard, damping=damping).encoder.encoder.layers[0].self_attn.out_proj
    torch.testing.assert_close(found.weight.detach(), weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.bias.detach(), bias, rtol=1e-8, atol=1e-10)


def test_padding_is_not_fitted(tiny) -> None:
    """Where norms see no padding, a batch that is padded further gives the same repair."""
    teacher = random_encoder(SHAPES["wav2vec2_prenorm"])
    student = compact(teacher, gates())
    wavs = [unequal_waveforms((8000, 6000, 3000), seed=seed) for seed in range(3)]
    short, long = ([teacher.prepare(batch, pad_to=pad) for batch in wavs] for pad in (8000, 12000))
    a, b = (repair(teacher, student, heard) for heard in (short, long))
    assert a.frames == b.frames
    for x, y in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", ["wavlm", "wavlm_prenorm"])
def test_pruned_channels_are_made_up_for_in_the_projection(shape: str) -> None:
    teacher = random_encoder(SHAPES[shape])
    conv = [(torch.arange(16) % 3 > 0).float()] * 3
    student = compact(teacher, EncoderGates([LayerGates()] * 3, conv))
    found = repair(teacher, student, speech(teacher))
    assert found.after < found.before
    assert not torch.equal(found.encoder.post_extract_proj.weight, student.post_extract_proj.weight)


def test_sums_are_in_double_precision() -> None:
    """Single precision would drown the least of two dimensions whose sizes are 1 to 1e-5."""
    teacher = random_encoder(tiny_config(num_layers=1))
    with torch.no_grad():
        layer = teacher.encoder.layers[0]
        layer.fc1.weight[1::2] = layer.fc1.weight[::2]
        layer.fc1.bias[1::2] = layer.fc1.bias[::2]
        layer.self_attn.v_proj.weight[0] *= 1e-5
        layer.self_attn.v_proj.bias[0] *= 1e-5
    student = compact(teacher, EncoderGates([LayerGates(ffn=torch.tensor([1.0, 0.0] * (FFN // 2)))]))
    assert repair(teacher, student, speech(teacher), damping=1e-12).after < 1e-9


def test_a_dimension_that_never_fires_does_no_harm() -> None:
    teacher = random_encoder(tiny_config())
    with torch.no_grad():
        teacher.encoder.layers[0].self_attn.v_proj.weight.zero_()
        teacher.encoder.layers[0].self_attn.v_proj.bias.zero_()
    found = repair(teacher, compact(teacher, gates()), speech(teacher))
    assert found.after < found.before
    assert all(parameter.isfinite().all() for parameter in found.encoder.parameters())


def test_a_repair_that_would_make_it_worse_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A fit helps its own sublayer; here the norm behind it turns that into harm: a student whose norms ignore what
    they are given, but for the sign of one dimension that the repair turns round."""
    teacher, student = random_encoder(tiny_config()), random_encoder(tiny_config(), seed=3)
    with torch.no_grad():
        for layer in student.encoder.layers:
            layer.final_layer_norm.weight.mul_(-1)  # what comes nearer before the norm goes away behind it
    found = repair(teacher, student, speech(teacher, 1))
    assert found.after == found.before
    assert "the repair is left out" in caplog.text
    for x, y in zip(found.encoder.parameters(), student.parameters(), strict=True):
        assert torch.equal(x, y)


def test_the_student_keeps_its_mode_and_its_teacher_too() -> None:
    teacher, student = random_encoder(tiny_config()), random_encoder(tiny_config(), seed=1)
    student.train()
    repair(teacher, student, speech(teacher, 1))
    assert student.training
    assert not teacher.training


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_layers": 2}, "the teacher has 3 layers and the student 2"),
        ({"embed_dim": 48, "num_heads": 4}, "the teacher has 24 dimensions and the student 48"),
        ({"conv_layers": ((16, 10, 5), (16, 3, 2))}, "samples per frame"),
        ({"layer_norm_first": True}, "place their layer norms differently"),
    ],
)
def test_another_teacher_is_refused(change, sentence: str) -> None:
    teacher = random_encoder(tiny_config())
    with pytest.raises(ConfigError, match=sentence):
        repair(teacher, random_encoder(tiny_config(**change)), speech(teacher, 1))


def test_no_speech_is_refused(tiny) -> None:
    with pytest.raises(DataError, match="needs speech"):
        repair(tiny, tiny, [])


def test_linear_is_what_can_be_refitted(tiny) -> None:
    """A sublayer without dimensions is its bias, and the bias alone is refitted: to the mean of what is missing."""
    student = compact(tiny, EncoderGates([LayerGates(ffn=torch.zeros(FFN)), LayerGates(), LayerGates()]))
    assert not isinstance(student.encoder.layers[0].fc2, nn.Linear)
    heard = speech(tiny, 3)
    found = repair(tiny, student, heard)
    bias = found.encoder.encoder.layers[0].fc2.bias
    outs: list[Tensor] = []
    tiny.encoder.layers[0].fc2.register_forward_hook(lambda module, inputs, out: outs.append(out))
    with torch.no_grad():
        valid = [~tiny(*batch).padding_mask for batch in heard]
    mean = torch.cat([out[v] for out, v in zip(outs, valid, strict=True)]).mean(0)
    torch.testing.assert_close(bias.detach(), mean, rtol=1e-4, atol=1e-5)
    assert dataclasses.asdict(found.encoder.config) == dataclasses.asdict(student.config)
