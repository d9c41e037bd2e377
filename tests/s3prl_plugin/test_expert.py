"""s3prl's own WavLM expert is the oracle of ours: same weights, same answer, name by name."""

from __future__ import annotations

import dataclasses
import multiprocessing

import pytest
import torch
from tiny import largest_difference, random_encoder

import pruned_upstream
from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.export import TOLERANCE
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import TransformerLayer
from pruned_upstream.s3prl_plugin.expert import Options, UpstreamExpert

pytest.importorskip("s3prl")


def waveforms(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length, generator=generator) for length in lengths]


@pytest.fixture(scope="module")
def s3prl_hub():
    pruned_upstream.register()
    from s3prl import hub

    return hub


@pytest.mark.parametrize("lengths", [(16000,), (16000, 9000, 400), (8000, 8000)])
@torch.no_grad()
def test_the_answer_is_that_of_s3prls_wavlm_expert(s3prl_hub, model_file, published_file, lengths):
    ours = s3prl_hub.pruned_wavlm(ckpt=str(model_file), model_config=None, refresh=False).eval()
    theirs = s3prl_hub.wavlm_local(ckpt=str(published_file), model_config=None).eval()
    wavs = waveforms(*lengths)
    answer, wanted = ours(wavs), theirs(wavs)

    assert answer.keys() == wanted.keys()
    assert answer["_hidden_states_info"] == wanted["_hidden_states_info"]
    assert ours.get_downsample_rates("hidden_states") == theirs.get_downsample_rates("hidden_states") == 320
    padding = ours.model.extract(wavs).padding_mask
    states = [f"hidden_state_{i}" for i in range(len(wanted["hidden_states"]))]
    assert largest_difference(answer["hidden_states"], wanted["hidden_states"], padding) <= 1e-5
    assert largest_difference([answer[s] for s in states], [wanted[s] for s in states], padding) <= 1e-5
    assert answer["last_hidden_state"] is answer["hidden_states"][-1]


@torch.no_grad()
def test_s3prl_upstream(s3prl_hub, model_file):
    from s3prl.nn import S3PRLUpstream

    assert "pruned_wavlm" in S3PRLUpstream.available_names()
    upstream = S3PRLUpstream("pruned_wavlm", str(model_file)).eval()
    assert (upstream.num_layers, upstream.hidden_sizes, upstream.downsample_rates) == (4, [24] * 4, [320] * 4)
    states, lengths = upstream(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    assert [state.shape for state in states] == [(2, 50, 24)] * 4
    assert lengths[0].tolist() == [50, 25]


@torch.no_grad()
def test_layers_without_sublayers_count_as_layers(narrow, tmp_path):
    gone = TransformerLayer(attention=False, heads=(), feed_forward=False, ffn=0)
    config = dataclasses.replace(narrow.config, layers=(gone, narrow.config.layers[1], gone))
    save(tmp_path / "compact.safetensors", random_encoder(config))
    answer = UpstreamExpert(tmp_path / "compact.safetensors")(waveforms(8000))
    assert len(answer["hidden_states"]) == 4
    assert len({state.shape for state in answer["hidden_states"]}) == 1


def test_finetuning_leaves_the_convolutions_alone(model_file):
    expert = UpstreamExpert(model_file).train()
    expert(waveforms(8000))["last_hidden_state"].square().sum().backward()
    touched = {name for name, parameter in expert.named_parameters() if parameter.grad is not None}
    frozen = {name for name, parameter in expert.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in expert.named_parameters() if name.startswith("model.feature_extractor.")}
    assert touched == {name for name, _ in expert.named_parameters()} - frozen


@torch.no_grad()
def test_a_deployed_file_answers_as_its_model_does(s3prl_hub, model_file, onnx_file):
    from s3prl.nn import S3PRLUpstream

    deployed = s3prl_hub.pruned_wavlm(ckpt=str(onnx_file))
    model = s3prl_hub.pruned_wavlm(ckpt=str(model_file))
    for lengths in ((16000,), (16000, 9000, 400)):
        wavs = waveforms(*lengths)
        answer, wanted = deployed(wavs), model(wavs)
        assert answer.keys() == wanted.keys()
        padding = model.model.extract(wavs).padding_mask
        assert largest_difference(answer["hidden_states"], wanted["hidden_states"], padding) <= TOLERANCE
    upstream = S3PRLUpstream("pruned_upstream", str(onnx_file))
    assert (upstream.num_layers, upstream.hidden_sizes, upstream.downsample_rates) == (4, [24] * 4, [320] * 4)


@torch.no_grad()
def test_a_deployed_file_is_opened_anew_behind_a_fork(onnx_file, monkeypatch):
    """A child that waits for the threads that its parent's session had waits forever."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    expert = UpstreamExpert(onnx_file).eval()
    wavs = waveforms(8000)
    here = expert(wavs)["last_hidden_state"]
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: sender.send(expert(wavs)["last_hidden_state"].tolist()), daemon=True)
    child.start()
    assert receiver.poll(60)
    assert torch.equal(torch.tensor(receiver.recv()), here)
    child.join()


def test_a_deployed_file_is_frozen(onnx_file):
    expert = UpstreamExpert(onnx_file).train()
    with pytest.raises(ConfigError, match="cannot be finetuned; leave out -f"):
        expert(waveforms(8000))
    with pytest.raises(DataError, match="receptive field"):
        expert.eval()(waveforms(399))


def test_bad_input_is_told(model_file, tmp_path):
    with pytest.raises(CheckpointError, match="pruned_hubert takes hubert alone"):
        UpstreamExpert(model_file, name="pruned_hubert", family="hubert")
    with pytest.raises(CheckpointError, match="there is no model file"):
        UpstreamExpert(tmp_path / "compact.safetensors")
    with pytest.raises(DataError, match="receptive field"):
        UpstreamExpert(model_file)(waveforms(399))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"graphs: !!timestamp foo\n", "line 1, column 9: this is no timestamp"),
        (b"precision: bf16\nprecision: fp32\n", "line 2 gives a key a second time"),
        (b"precision: caf\xe9\n", "it is not UTF-8"),
        (b"precision: 2024-02-30\n", "this is no timestamp"),
        (b"[1]\n", r"holds \[1\]; a compact upstream takes"),
    ],
)
def test_options_that_are_spoiled_are_answered_by_a_sentence(content, said, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        Options.read(path)
