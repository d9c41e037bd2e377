"""s3prl's own WavLM is the oracle: same weights, every stage and every hidden state."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import largest_difference, random_encoder, tiny_config, unequal_waveforms, wavlm_checkpoint

from pruned_upstream.model.config import wavlm_base_config, wavlm_large_config

wavlm = pytest.importorskip("s3prl.upstream.wavlm.WavLM")

SHAPES = {
    "tiny": (tiny_config(), (1600, 1111, 640)),
    "tiny_prenorm": (
        tiny_config(extractor_mode="layer_norm", normalize=True, layer_norm_first=True, conv_bias=True),
        (1600, 1111, 640),
    ),
    "base": (wavlm_base_config(), (16000, 9000)),
    "large_prenorm": (
        dataclasses.replace(wavlm_large_config(), layers=wavlm_large_config().layers[:2]),
        (16000, 9000),
    ),
}


def foreign_model(encoder):
    """s3prl's WavLM of the same shape with our weights under its names."""
    checkpoint = wavlm_checkpoint(encoder)
    model = wavlm.WavLM(wavlm.WavLMConfig(checkpoint["cfg"])).eval()
    model.load_state_dict(checkpoint["model"])
    return model


@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_every_stage_equals_s3prl(name):
    config, lengths = SHAPES[name]
    ours = random_encoder(config)
    theirs = foreign_model(ours)
    waveforms, sizes = ours.prepare(unequal_waveforms(lengths))
    output = ours(waveforms, sizes)

    features = theirs.feature_extractor(waveforms).transpose(1, 2)
    assert largest_difference([ours.features(waveforms)], [features]) <= 1e-5
    projected = theirs.post_extract_proj(theirs.layer_norm(features))
    assert largest_difference([output.projected], [projected]) <= 1e-5
    wav_mask = torch.arange(waveforms.size(1)) >= sizes[:, None]
    mask = theirs.forward_padding_mask(features, wav_mask)
    assert torch.equal(output.padding_mask, mask)

    states = []
    for layer in theirs.encoder.layers:
        layer.register_forward_hook(lambda module, args, out: states.append(args[0].transpose(0, 1)))
    last, _ = theirs.extract_features(waveforms, padding_mask=wav_mask)
    assert largest_difference(output.hidden_states, states + [last], mask) <= 1e-5
