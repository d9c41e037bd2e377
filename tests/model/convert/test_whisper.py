"""Whisper's encoder against transformers' own class and feature extractor, with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.checkpoint import load, read_header, save
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.convert.whisper import at_own_length
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters

transformers = pytest.importorskip("transformers")
WINDOW = 480000
TINY = {"encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 96, "d_model": 24}
BASE = {"encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "d_model": 512}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
OPENAI = {  # transformers' name within a layer -> OpenAI's
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}


def whisper(head: str = "WhisperModel", **shape) -> torch.nn.Module:
    """transformers' model with every parameter of the encoder random, positions too."""
    torch.manual_seed(0)
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 16, "vocab_size": 60}
    model = getattr(transformers, head)(transformers.WhisperConfig(**decoder, **SPECIAL, **shape)).eval()
    with torch.no_grad():
        for name, parameter in model.get_encoder().named_parameters():
            if "norm.weight" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.2 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    return model


def of_openai(model: torch.nn.Module) -> dict[str, dict]:
    """The file that OpenAI would have published of this model; its decoder shrunk to a tensor."""
    state = {"decoder.positional_embedding": torch.zeros(4, 24)}
    for name, tensor in model.get_encoder().state_dict().items():
        name = {"embed_positions.weight": "positional_embedding"}.get(name, name)
        name = f"ln_post.{name.split('.')[1]}" if name.startswith("layer_norm.") else name
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            module, kind = rest.rsplit(".", 1)
            name = f"blocks.{number}.{OPENAI[module]}.{kind}"
        state[f"encoder.{name}"] = tensor.half()
    config = model.config
    dims = {
        "n_mels": config.num_mel_bins,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_vocab": 51865,
        "n_text_ctx": 448,
    }
    return {"dims": dims, "model_state_dict": state}


@torch.no_grad()
def states_of(model: torch.nn.Module, wav: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of one window, silence and all, by the extractor and the encoder of transformers."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    features = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    return list(model.get_encoder()(features, output_hidden_states=True).hidden_states)


@pytest.fixture(scope="module")
def tiny():
    return whisper(**TINY)


@pytest.fixture(scope="module")
def tiny_encoder(tiny, tmp_path_factory) -> Encoder:
    folder = tmp_path_factory.mktemp("whisper")
    tiny.save_pretrained(folder)
    return load_teacher(folder)


def test_spectra_are_the_extractors(tiny_encoder):
    """The extractor's numpy branch computes in double precision as ours does; its torch branch is coarser."""
    wav = unequal_waveforms((30000,))[0]
    padded = torch.nn.functional.pad(wav, (0, WINDOW - len(wav)))
    theirs = transformers.WhisperFeatureExtractor()._np_extract_fbank_features(padded.numpy()[None], "cpu")
    ours = tiny_encoder.feature_extractor.log_mel(padded[None])
    assert np.abs(ours.transpose(1, 2).numpy() - theirs).max() <= 1e-6


@pytest.mark.parametrize("shape", [TINY, BASE, TINY | {"num_mel_bins": 128}], ids=["tiny", "base", "128 bands"])
@torch.no_grad()
def test_every_hidden_state_is_that_of_transformers(shape, tmp_path):
    model = whisper(**shape)
    model.save_pretrained(tmp_path)
    encoder = load_teacher(tmp_path)
    wavs = unequal_waveforms((50000, 16000))
    output = encoder.extract(wavs)
    assert len(output.hidden_states) == shape["encoder_layers"] + 1
    for row, (wav, frames) in enumerate(zip(wavs, (157, 50), strict=True)):
        assert int((~output.padding_mask[row]).sum()) == frames  # 50 a second
        ours = [state[row : row + 1, :frames] for state in output.hidden_states]
        assert largest_difference(ours, [state[:, :frames] for state in states_of(model, wav)]) <= 1e-5


@pytest.mark.parametrize("head", ["WhisperForConditionalGeneration", "WhisperForAudioClassification"])
def test_the_encoder_is_found_under_a_head(head, tiny_encoder, tmp_path):
    whisper(head, **TINY).save_pretrained(tmp_path)
    encoder = load_teacher(tmp_path)
    for name, tensor in encoder.state_dict().items():
        assert tensor.shape == tiny_encoder.state_dict()[name].shape


def test_openais_file_is_the_same_model(tiny, tiny_encoder, tmp_path):
    torch.save(of_openai(tiny), tmp_path / "tiny.pt")
    encoder = load_teacher(tmp_path / "tiny.pt")
    assert encoder.config == tiny_encoder.config
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, tiny_encoder.state_dict()[name].half().float()), name


@torch.no_grad()
def test_recordings_longer_than_a_window_are_heard_window_by_window(tiny, tiny_encoder):
    wav = unequal_waveforms((WINDOW + 20000,))[0]
    first, second = states_of(tiny, wav[:WINDOW]), states_of(tiny, wav[WINDOW:])
    theirs = [torch.cat([a, b[:, :63]], dim=1) for a, b in zip(first, second, strict=True)]
    assert largest_difference(tiny_encoder.extract([wav]).hidden_states, theirs) <= 1e-5


@torch.no_grad()
def test_at_its_own_length_a_recording_attends_to_itself_alone(tiny, tiny_encoder):
    """The front end's frames stay those of the whole window; transformers' layers are then run on them alone."""
    wav = unequal_waveforms((16000,))[0]
    x = states_of(tiny, wav)[0][:, :50]
    theirs = [x]
    for layer in tiny.get_encoder().layers:
        x = layer(x, None)
        x = x[0] if isinstance(x, tuple) else x
        theirs.append(x)
    theirs[-1] = tiny.get_encoder().layer_norm(theirs[-1])
    assert largest_difference(at_own_length(tiny_encoder).extract([wav]).hidden_states, theirs) <= 1e-5


@torch.no_grad()
def test_company_changes_nothing(tiny_encoder):
    """In either mode, also beside a recording of two windows, and up to the last samples of a window."""
    wavs = unequal_waveforms((9000, WINDOW + 5000, WINDOW - 100, 1))
    for encoder in (tiny_encoder, at_own_length(tiny_encoder)):
        together = encoder.extract(wavs)
        for row, wav in enumerate(wavs):
            alone = encoder.extract([wav]).hidden_states
            own = ~together.padding_mask[row]
            assert int(own.sum()) == alone[0].size(1) == -(-len(wav) // 320)
            assert largest_difference([s[row][own] for s in together.hidden_states], [s[0] for s in alone]) <= 1e-5


def test_the_file_says_how_recordings_are_heard(tiny_encoder, tmp_path):
    save(tmp_path / "own.safetensors", at_own_length(tiny_encoder))
    assert not read_header(tmp_path / "own.safetensors").config.log_mel.whole_windows
    assert load(tmp_path / "own.safetensors").config.log_mel.whole_windows is False
    assert tiny_encoder.config.log_mel.whole_windows


def test_keys_have_no_bias_and_positions_are_no_parameters(tiny, tiny_encoder):
    learned = [p for name, p in tiny.get_encoder().named_parameters() if name != "embed_positions.weight"]
    assert count_parameters(tiny_encoder.config) == sum(p.numel() for p in learned)
    assert sum(p.numel() for p in tiny_encoder.parameters()) == count_parameters(tiny_encoder.config)


def test_what_does_not_fit_is_named(tiny, tmp_path):
    file = of_openai(tiny)
    torch.save(file | {"dims": {k: v for k, v in file["dims"].items() if k != "n_mels"}}, tmp_path / "dims.pt")
    with pytest.raises(CheckpointError, match="n_mels"):
        load_teacher(tmp_path / "dims.pt")
    weights = file["model_state_dict"]
    torch.save(file | {"model_state_dict": weights | {"encoder.adapter": torch.zeros(1)}}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match="adapter"):
        load_teacher(tmp_path / "more.pt")
    less = {name: tensor for name, tensor in weights.items() if name != "encoder.blocks.1.attn.key.weight"}
    torch.save(file | {"model_state_dict": less}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match="layers.1.self_attn.k_proj.weight"):
        load_teacher(tmp_path / "less.pt")
    tiny.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    with pytest.raises(CheckpointError, match="relu"):
        load_teacher(tmp_path / "folder")


def test_only_whisper_has_windows(shape):
    with torch.device("meta"):
        encoder = Encoder(shape)
    if shape.log_mel is None:
        with pytest.raises(ConfigError, match="own length"):
            at_own_length(encoder)


@torch.no_grad()
def test_as_an_upstream_it_gives_fifty_frames_a_second(tiny_encoder, tmp_path):
    pytest.importorskip("s3prl")
    import pruned_upstream

    pruned_upstream.register()
    from s3prl.nn import S3PRLUpstream

    save(tmp_path / "whisper.safetensors", tiny_encoder)
    upstream = S3PRLUpstream("pruned_whisper", str(tmp_path / "whisper.safetensors")).eval()
    wavs = unequal_waveforms((32000, 17001))
    states, lengths = upstream(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor([32000, 17001]))
    assert len(states) == 4 and states[0].shape == (2, 100, 24)
    assert lengths[0].tolist() == [100, 54]
    assert largest_difference([states[-1][1:, :54]], [tiny_encoder.extract(wavs[1:]).hidden_states[-1]]) <= 1e-5
