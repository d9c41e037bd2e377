"""s3prl's own WavLM is the oracle: same weights, every stage and every hidden state."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import largest_difference, random_encoder, tiny_config, unequal_waveforms

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


def foreign_model(config, state):
    """s3prl's WavLM of the same shape with our weights under its names."""
    relative = config.relative_position
    cfg = {
        "extractor_mode": config.extractor_mode,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.embed_dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.num_heads,
        "layer_norm_first": config.layer_norm_first,
        "conv_feature_layers": str([(c.channels, c.kernel, c.stride) for c in config.conv]),
        "conv_bias": config.conv_bias,
        "normalize": config.normalize,
        "conv_pos": config.conv_pos,
        "conv_pos_groups": config.conv_pos_groups,
        "relative_position_embedding": True,
        "num_buckets": relative.buckets,
        "max_distance": relative.max_distance,
        "gru_rel_pos": relative.gated,
    }
    model = wavlm.WavLM(wavlm.WavLMConfig(cfg)).eval()
    state = dict(state)
    table = "relative_attention_bias.weight"
    state[f"encoder.layers.0.self_attn.{table}"] = state.pop(f"encoder.{table}")
    state["mask_emb"] = model.mask_emb
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", sorted(SHAPES))
@torch.no_grad()
def test_every_stage_equals_s3prl(name):
    config, lengths = SHAPES[name]
    ours = random_encoder(config)
    theirs = foreign_model(config, ours.state_dict())
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
