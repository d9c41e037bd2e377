"""Audio of every kind that people have, and hidden states in batches of equal length and in chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.onnx_file import OnnxEncoder
from pruned_upstream.model.waveforms import as_waveforms

pytestmark = pytest.mark.filterwarnings("error")


def tone(samples: int = 1600) -> np.ndarray:
    """Speech-like numbers that int16 holds exactly."""
    generator = np.random.default_rng(0)
    return np.round(generator.uniform(-0.9, 0.9, samples) * 2**15).astype(np.int16)


FLOATS = tone() / np.float32(2**15)
FORMS = {
    "tensor": torch.from_numpy(FLOATS),
    "numpy": FLOATS,
    "int16": tone(),
    "int16 tensor": torch.from_numpy(tone()),
    "big endian": tone().astype(">i2"),
    "int32": tone().astype(np.int32) * 2**16,
    "float64": FLOATS.astype(np.float64),
    "strides": np.repeat(FLOATS, 2)[::2],
    "backwards": FLOATS[::-1].copy()[::-1],
    "numbers": FLOATS.tolist(),
    "(1, N)": FLOATS[None],
    "(1, N) tensor": torch.from_numpy(FLOATS)[None],
    "list": [torch.from_numpy(FLOATS)],
    "tuple": (FLOATS,),
    "list of (1, N)": [FLOATS[None]],
    "list of (N, 1)": [FLOATS[:, None]],
    "list of lists": [FLOATS.tolist()],
    "read-only": np.frombuffer(FLOATS.tobytes(), np.float32),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@torch.no_grad()
def test_every_form_of_one_waveform(tiny, form):
    expected = tiny(torch.from_numpy(FLOATS)[None]).hidden_states
    output = tiny.extract(FORMS[form])
    assert output.hidden_states[0].dtype == torch.float32 and output.padding_mask is None
    assert largest_difference(output.hidden_states, expected) < 1e-6
    output.hidden_states[-1].numpy()


def test_scales():
    (bytes_,) = as_waveforms(np.array([0, 128, 255], np.uint8))
    assert bytes_.tolist() == [-1.0, 0.0, 127 / 128]
    (halves,) = as_waveforms(torch.tensor([0.5, -0.5], dtype=torch.float16))
    assert halves.dtype == torch.float32 and halves.tolist() == [0.5, -0.5]


@torch.no_grad()
def test_files(tiny, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    soundfile.write(tmp_path / "b.flac", tone(1111), 16000)
    wavs = [torch.from_numpy(tone(n) / np.float32(2**15)) for n in (1600, 1111)]
    expected = tiny.extract(wavs)
    output = tiny.extract([tmp_path / "a.wav", str(tmp_path / "b.flac")])
    assert torch.equal(output.padding_mask, expected.padding_mask)
    assert largest_difference(output.hidden_states, expected.hidden_states) == 0
    alone = tiny.extract(str(tmp_path / "a.wav")).hidden_states
    assert largest_difference(alone, tiny.extract(wavs[0]).hidden_states) == 0


@torch.no_grad()
def test_a_batch_with_lengths_is_a_list(tiny):
    wavs = unequal_waveforms()
    lengths = [len(wav) for wav in wavs]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    batch[1, lengths[1] :] = 7.0  # what lies behind does not matter
    expected = tiny.extract(wavs)
    for given in (lengths, torch.tensor(lengths), np.array(lengths)):
        output = tiny.extract(batch, given)
        assert torch.equal(output.padding_mask, expected.padding_mask)
        assert largest_difference(output.hidden_states, expected.hidden_states) == 0
    assert tiny.extract(batch.numpy()).padding_mask is None


WAV = torch.from_numpy(FLOATS)
MISTAKES = {
    "stereo": (([torch.stack([WAV, WAV])],), "waveform 0 has the shape .*2 channels"),
    "stereo file order": ((np.stack([FLOATS, FLOATS], 1),), r"\(samples, channels\)"),
    "empty": ((torch.zeros(0),), "the waveform is empty"),
    "one empty": (([WAV, torch.zeros(0)],), "waveform 1 is empty"),
    "empty array in a batch": ((np.zeros((2, 0)),), "waveform 0 is empty"),
    "none": (([],), "no waveform"),
    "nan": (([WAV, WAV / 0 * 0],), "waveform 1 holds NaN"),
    "infinity": ((WAV / 0,), "NaN, infinity"),
    "beyond single precision": ((WAV.double() * 1e200,), "beyond single precision"),
    "masked": ((np.ma.masked_array(FLOATS, FLOATS > 0),), "masked samples"),
    "sparse": ((WAV.to_sparse(),), "sparse tensor; give a dense one"),
    "nested": ((torch.nested.nested_tensor([WAV, WAV[:800]]),), "nested tensor; give a dense one"),
    "no name": (("",), "the empty name is not there"),
    "int64": (([1, 2, 3],), "says no scale"),
    "bool": ((WAV > 0,), "says no scale"),
    "complex": ((WAV + 1j,), "says no scale"),
    "number": ((torch.tensor(1.0),), "must be"),
    "three axes": ((WAV[None, None],), r"give|must be \(B, samples\)"),
    "a dictionary": (({"array": FLOATS},), "dict is not audio"),
    "none at all": ((None,), "NoneType is not audio"),
    "none in a list": (([WAV, None],), "waveform 1 is NoneType"),
    "words": (("no such file.wav",), "is not there"),
    "too short": ((torch.zeros(3),), "receptive field"),
    "lengths of a list": (([WAV, WAV], [3, 4]), "their own"),
    "lengths of one": ((WAV, [3]), "one waveform"),
    "too few lengths": ((torch.stack([WAV, WAV]), [1600]), "2 whole numbers"),
    "relative lengths": ((torch.stack([WAV, WAV]), [1.0, 0.5]), "2 whole numbers"),
    "long lengths": ((torch.stack([WAV, WAV]), [1600, 1601]), "waveform 1 has 1600 samples"),
    "yes and no as lengths": ((torch.stack([WAV, WAV]), [True, True]), "2 whole numbers"),
    "words as lengths": ((torch.stack([WAV, WAV]), "ab"), "2 whole numbers"),
    "none among lengths": ((torch.stack([WAV, WAV]), [None, 3]), "2 whole numbers"),
    "a waveform and its rate": (((WAV, 16000),), "waveform 1 is the number 16000"),
    "without values": ((torch.zeros(1600, device="meta"),), "without values"),
    "negative lengths": ((torch.stack([WAV, WAV]), [1600, -1]), "waveform 1"),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_mistakes_are_named(tiny, mistake):
    arguments, message = MISTAKES[mistake]
    with pytest.raises(DataError, match=message):
        tiny.extract(*arguments)


def test_mistaken_files(tiny, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "fast.wav", tone(), 44100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(), tone()], 1), 16000)
    (tmp_path / "text.wav").write_text("not audio")
    for name, message in (
        ("fast.wav", r"fast\.wav has 44100 samples per second"),
        ("stereo.wav", r"stereo\.wav has the shape .* 2 channels"),
        ("text.wav", r"text\.wav is no audio"),
        (".", "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            tiny.extract(tmp_path / name)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_precision_from_file_to_hidden_states(name, dtype, tmp_path):
    encoder = random_encoder(SHAPES[name])
    save(tmp_path / "model.safetensors", encoder)
    loaded = load(tmp_path / "model.safetensors", device="cpu", dtype=dtype)
    wavs = unequal_waveforms()
    output = loaded.extract(wavs)
    assert {state.dtype for state in output.hidden_states} == {dtype}
    expected = encoder.extract(wavs)
    difference = largest_difference(
        [state.float() for state in output.hidden_states], expected.hidden_states, expected.padding_mask
    )
    assert difference < (1e-5 if dtype == torch.float64 else 0.05)


def test_a_precision_that_is_none(tiny, tmp_path):
    save(tmp_path / "model.safetensors", tiny)
    for dtype in (torch.int8, torch.float8_e4m3fn, "half", None):
        with pytest.raises(ConfigError, match=r"dtype is .*; it must be torch\.float32, .* or torch\.float16"):
            load(tmp_path / "model.safetensors", dtype=dtype)


def test_arguments_of_load_of_another_type(tiny, tmp_path):
    save(tmp_path / "model.safetensors", tiny)
    for name in (None, 3, b"model.safetensors", ["model.safetensors"]):
        with pytest.raises(CheckpointError, match="is no name of a model file"):
            load(name)
    with pytest.raises(ConfigError, match=r"dropout is 0\.1; it must be a Dropout"):
        load(tmp_path / "model.safetensors", dropout=0.1)
    with pytest.raises(ConfigError, match=r"device is 3\.5"):
        load(tmp_path / "model.safetensors", device=3.5)


def test_a_device_that_is_none(tiny, tmp_path):
    save(tmp_path / "model.safetensors", tiny)
    absent = ("tpu", "cuda:7") if torch.cuda.is_available() else ("tpu", "cuda")
    for device in absent:
        with pytest.raises(ConfigError, match=f"device is {device}, which cannot be used here"):
            load(tmp_path / "model.safetensors", device=device)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((WAV,), r"waveforms are of shape \(1600,\)"),
        ((WAV[None, None],), r"waveforms are of shape \(1, 1, 1600\)"),
        ((torch.ones(1, 1600, dtype=torch.long),), "type torch.int64"),
        ((torch.stack([WAV, WAV]), torch.tensor([1600])), "lengths must be 2 whole numbers"),
        ((WAV[None], torch.tensor(1600)), "lengths must be 1 whole numbers"),
        ((FLOATS[None],), r"waveforms are ndarray; they must be a tensor \(B, samples\)"),
        ((torch.zeros(0, 1600),), "no waveform"),
        ((torch.stack([WAV, WAV]), [1.0, 0.5]), "whole numbers"),
        ((torch.stack([WAV, WAV]), torch.tensor([1.0, 0.5])), "whole numbers"),
        ((torch.stack([WAV, WAV]), torch.tensor([True, True])), "whole numbers"),
        ((torch.stack([WAV, WAV]), [1600, 1601]), "lengths go from 1600 to 1601, and waveforms have 1600"),
        ((torch.stack([WAV, WAV]), torch.tensor([-1, 3])), "lengths go from -1 to 3"),
        ((torch.stack([WAV, WAV]), "ab"), "whole numbers"),
    ],
)
def test_forward_takes_a_batch(tiny, given, message):
    with pytest.raises(DataError, match=message):
        tiny(*given)


@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_forward_takes_the_precision_of_the_model(name):
    encoder = random_encoder(SHAPES[name])
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        with pytest.raises(DataError, match=rf"type {dtype} and the model of type torch.float32; give waveforms.to"):
            encoder(WAV[None].to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(WAV[None].bfloat16()).hidden_states[-1].isfinite().all()
    with pytest.raises(DataError, match=r"type torch.float32 and the model of type torch.bfloat16"):
        encoder.bfloat16()(WAV[None])


@torch.no_grad()
def test_lengths_of_forward_in_every_form(tiny):
    batch = torch.stack([WAV, WAV])
    expected = tiny(batch, torch.tensor([1600, 800]))
    for lengths in ([1600, 800], (1600, 800), np.array([1600, 800], np.uint16), torch.tensor([1600, 800]).int()):
        output = tiny(batch, lengths)
        assert torch.equal(output.padding_mask, expected.padding_mask)
        assert largest_difference(output.hidden_states, expected.hidden_states) == 0


# batches of equal length ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_equal_lengths_give_what_each_gives_alone(name):
    encoder = random_encoder(SHAPES[name])
    wavs = unequal_waveforms((1600, 640, 1111, 640))
    output = encoder.extract(wavs, equal_lengths=True)
    assert output.hidden_states[0].shape[:2] == output.padding_mask.shape == output.projected.shape[:2]
    for number, wav in enumerate(wavs):
        alone = encoder.extract(wav)
        frames = (~output.padding_mask[number]).sum()
        own = [state[number : number + 1, :frames] for state in output.hidden_states]
        assert largest_difference(own, alone.hidden_states) < 1e-5
        assert not any(state[number, frames:].any() for state in output.hidden_states)


@torch.no_grad()
def test_padding_moves_a_short_clip_where_a_group_norm_sees_it(tiny):
    """The reason for `equal_lengths`; as in s3prl and fairseq."""
    long, short = unequal_waveforms((3200, 640))
    alone = tiny.extract(short).hidden_states
    frames = alone[0].size(1)
    beside = [state[1:, :frames] for state in tiny.extract([long, short]).hidden_states]
    apart = [state[1:, :frames] for state in tiny.extract([long, short], equal_lengths=True).hidden_states]
    assert largest_difference(beside, alone) > 0.05
    assert largest_difference(apart, alone) < 1e-5


def test_as_many_passes_as_lengths(tiny, monkeypatch):
    batches = []
    plain = type(tiny).compute
    monkeypatch.setattr(type(tiny), "compute", lambda self, wavs: batches.append(len(wavs)) or plain(self, wavs))
    tiny.extract(unequal_waveforms((640, 1600, 640, 640)), equal_lengths=True)
    assert sorted(batches) == [1, 3]
    with pytest.raises(DataError, match="waveform 1 has 3 samples"):
        tiny.extract([torch.randn(640), torch.randn(3)], equal_lengths=True)


# chunks --------------------------------------------------------------------------------------------------------------


def seconds(frames: int) -> float:
    return frames * 20 / 16000  # the tiny front end makes a frame of 20 samples


@pytest.mark.parametrize("name", sorted(name for name in SHAPES if SHAPES[name].log_mel is None))
@pytest.mark.parametrize("samples", [60, 1600, 1611, 1639])
@torch.no_grad()
def test_chunks_that_see_everything_are_the_whole(name, samples):
    encoder = random_encoder(SHAPES[name])
    (wav,) = unequal_waveforms((samples,))
    whole = encoder.extract(wav)
    output = encoder.extract(wav, chunk_seconds=seconds(7), context_seconds=10)
    assert output.padding_mask is None and output.projected.shape == whole.projected.shape
    assert largest_difference(output.hidden_states, whole.hidden_states) < 1e-5


@torch.no_grad()
def test_more_context_is_closer_and_every_frame_comes_once(tiny):
    wavs = unequal_waveforms((3217, 1500))
    whole = tiny.extract(wavs, equal_lengths=True)
    differences = []
    for context in (0, 20, 60):
        output = tiny.extract(wavs, chunk_seconds=seconds(13), context_seconds=seconds(context))
        assert torch.equal(output.padding_mask, whole.padding_mask)
        differences.append(largest_difference(output.hidden_states, whole.hidden_states, whole.padding_mask))
    assert differences[0] > differences[1] > differences[2] > 0


@torch.no_grad()
def test_chunks_come_one_by_one_and_never_see_more_than_their_window(tiny, monkeypatch):
    seen = []
    plain = type(tiny).compute
    monkeypatch.setattr(type(tiny), "compute", lambda self, wavs: seen.append(len(wavs[0])) or plain(self, wavs))
    (wav,) = unequal_waveforms((8000,))
    stream = tiny.chunks(wav, chunk_seconds=seconds(10), context_seconds=seconds(5))
    first = next(stream)
    assert len(seen) == 1 and first.hidden_states[0].shape == (1, 10, 24)
    frames = 10 + sum(output.hidden_states[0].size(1) for output in stream)
    assert frames == tiny.config.frames(8000)
    assert max(seen) <= 20 * 20 + tiny.config.receptive_field


def test_chunks_that_make_no_sense(tiny):
    wav = torch.randn(1600)
    for options, message in (
        ({"chunk_seconds": 0}, "chunk_seconds is 0; it must be above 0"),
        ({"chunk_seconds": float("nan")}, "a number of seconds"),
        ({"chunk_seconds": float("inf")}, "a number of seconds"),
        ({"chunk_seconds": "1"}, "a number of seconds"),
        ({"chunk_seconds": True}, "a number of seconds"),
        ({"chunk_seconds": 1e307}, "a number of seconds"),
        ({"chunk_seconds": 10**400}, "a number of seconds"),
        ({"chunk_seconds": 1, "context_seconds": float("inf")}, "a number of seconds"),
        ({"chunk_seconds": 1, "context_seconds": -1}, "context_seconds is -1; it must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny.extract(wav, **options)
    with pytest.raises(ConfigError, match="goes with chunk_seconds"):
        tiny.extract(wav, context_seconds=1.0)
    with pytest.raises(DataError, match="one recording"):
        tiny.chunks([wav, wav])
    with pytest.raises(DataError, match="receptive field"):
        tiny.extract(torch.zeros(3), chunk_seconds=1)
    with pytest.raises(ConfigError, match="windows itself"):
        random_encoder(SHAPES["whisper"]).extract(wav, chunk_seconds=1)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    import warnings

    from pruned_upstream.export import export_onnx

    encoder = random_encoder(tiny_config())
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(encoder, path)
    return encoder, OnnxEncoder(path)


@pytest.mark.parametrize(
    "options", [{}, {"equal_lengths": True}, {"chunk_seconds": seconds(13), "context_seconds": seconds(9)}]
)
@torch.no_grad()
def test_onnxruntime_takes_the_same_and_gives_the_same(onnx, options):
    encoder, deployed = onnx
    batch, lengths = torch.stack([WAV, WAV.flip(0)]), [1600, 1111]
    for audio in ((batch, lengths), (tone(),), ([tone(640), tone(1000)],)):
        ours, theirs = encoder.extract(*audio, **options), deployed.extract(*audio, **options)
        assert largest_difference(theirs.hidden_states, ours.hidden_states, ours.padding_mask) < 1e-4
        if ours.padding_mask is not None:
            assert torch.equal(theirs.padding_mask, ours.padding_mask)
    with pytest.raises(DataError, match="waveform 1 holds NaN"):
        deployed.extract([WAV, WAV / 0 * 0])
