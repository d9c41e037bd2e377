"""fairseq's files, whose oracle is s3prl's copy of its classes: same weights, every hidden state."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.convert import load_teacher

pytest.importorskip("s3prl.upstream.hubert.hubert_model")
from published import BASE_WIDTH, FORMS, LARGE, LARGE_WIDTH, fairseq_model, since_hydra, write  # noqa: E402

TINY_LENGTHS, LENGTHS = (1600, 1111, 640), (16000, 9000)
MODELS = {
    "hubert": ("hubert", {}, False, TINY_LENGTHS),
    "hubert_large": ("hubert", LARGE, True, TINY_LENGTHS),
    "wav2vec2": ("wav2vec2", {}, False, TINY_LENGTHS),
    "wav2vec2_lv60": ("wav2vec2", LARGE | {"conv_bias": True}, True, TINY_LENGTHS),
    "data2vec": ("data2vec", {}, True, TINY_LENGTHS),
    "hubert_base_width": ("hubert", BASE_WIDTH, False, LENGTHS),
    "hubert_large_width": ("hubert", LARGE_WIDTH, True, LENGTHS),
    "wav2vec2_base_width": ("wav2vec2", BASE_WIDTH, False, LENGTHS),
    "wav2vec2_lv60_width": ("wav2vec2", LARGE_WIDTH | {"conv_bias": True}, True, LENGTHS),
    "data2vec_base_width": ("data2vec", BASE_WIDTH | {"conv_pos": 95, "pos_conv_depth": 5}, True, LENGTHS),
}


def foreign_states(model, waveforms, lengths):
    """Hidden states as s3prl's experts take them: the input of each layer and the output of all."""
    states = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, args, out: states.append(args[0].transpose(0, 1)))
    model.encoder.register_forward_hook(lambda module, args, out: states.append(out[0]))
    mask = torch.arange(waveforms.size(1)) >= lengths[:, None]
    padding = model.extract_features(waveforms, padding_mask=mask, mask=False)
    padding = padding["padding_mask"] if isinstance(padding, dict) else padding[1]
    frames = states[-1].size(1)
    return [state[:, :frames] for state in states], padding


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_every_hidden_state_equals_the_original(name, tmp_path):
    kind, options, normalize, sizes = MODELS[name]
    theirs, options = fairseq_model(kind, **options)
    write(since_hydra(theirs, options, normalize=normalize), tmp_path / "model.pt")
    ours = load_teacher(tmp_path / "model.pt")
    assert (ours.config.family, ours.config.normalize) == (kind, normalize)
    waveforms, lengths = ours.prepare(unequal_waveforms(sizes))
    output = ours(waveforms, lengths)
    expected, padding = foreign_states(theirs, waveforms, lengths)
    assert torch.equal(output.padding_mask, padding)
    assert largest_difference(output.hidden_states, expected, padding) <= 1e-5


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "data2vec"])
@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("zipped", [True, False])
def test_every_form_of_a_file(form, kind, zipped, tmp_path):
    theirs, options = fairseq_model(kind)
    checkpoint = FORMS[form](theirs, options, normalize=True)
    write(checkpoint, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert "fairseq" not in sys.modules
    ours = load_teacher(tmp_path / "model.pt")
    assert "fairseq" not in sys.modules
    assert ours.config.normalize
    assert torch.equal(ours.state_dict()["encoder.layers.2.fc1.weight"], theirs.encoder.layers[2].fc1.weight)


def refused(checkpoint, path, match):
    write(checkpoint, path)
    with pytest.raises(CheckpointError, match=match):
        load_teacher(path)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "model.pt"
    model, options = fairseq_model("wav2vec2")

    def changed(**changes):
        return since_hydra(model, options | changes, normalize=False)

    checkpoint = changed()
    refused(checkpoint | {"model": checkpoint["model"] | {"stowaway": torch.zeros(1)}}, path, "unexpected stowaway")
    weights = {name: tensor for name, tensor in checkpoint["model"].items() if name != "layer_norm.bias"}
    refused(checkpoint | {"model": weights}, path, r"missing tensors layer_norm\.bias")
    refused(changed(encoder_ffn_embed_dim=41), path, r"fc1\.(weight|bias) has shape")
    refused(changed(_name="wav2vec2_seq2seq"), path, "'wav2vec2_seq2seq'; known are hubert, wav2vec2")
    refused(changed(layer_type="conformer"), path, "layer_type 'conformer' is not supported")
    refused(changed(activation_fn="relu"), path, "activation_fn 'relu'")
    refused(changed(conv_feature_layers="[(1, 2)]"), path, "is not")
    del checkpoint["cfg"]["model"]["encoder_layers"]
    refused(checkpoint, path, "do not say encoder_layers")
    checkpoint = changed()
    del checkpoint["cfg"]["task"]["normalize"]
    refused(checkpoint, path, "normalised")


def test_finetuned_files_that_do_not_fit(tmp_path):
    model, options = fairseq_model("wav2vec2")
    checkpoint = FORMS["finetuned"](model, options, normalize=False)
    more = checkpoint["model"] | {"decoder.embed.weight": torch.zeros(1)}
    refused(checkpoint | {"model": more}, tmp_path / "model.pt", r"decoder\.embed\.weight beside the encoder")
    checkpoint["cfg"]["model"]["w2v_args"] = None
    refused(checkpoint, tmp_path / "model.pt", "w2v_args")
