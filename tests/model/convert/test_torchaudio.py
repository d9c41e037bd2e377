"""torchaudio's own models are the oracle for its state dicts; two layers of each published width."""

from __future__ import annotations

import pytest
import torch
from tiny import largest_difference

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.convert import load_teacher

pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()
models = pytest.importorskip("torchaudio.models.wav2vec2.model")

BASE = dict(
    extractor_mode="group_norm", extractor_conv_layer_config=None, extractor_conv_bias=False, encoder_embed_dim=768,
    encoder_projection_dropout=0.0, encoder_pos_conv_kernel=128, encoder_pos_conv_groups=16, encoder_num_layers=2,
    encoder_num_heads=12, encoder_attention_dropout=0.0, encoder_ff_interm_features=3072, encoder_ff_interm_dropout=0.0,
    encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None,
)  # fmt: skip
LARGE = BASE | dict(
    extractor_mode="layer_norm", extractor_conv_bias=True, encoder_embed_dim=1024, encoder_num_heads=16,
    encoder_ff_interm_features=4096, encoder_layer_norm_first=True,
)  # fmt: skip
POSITIONS = dict(encoder_num_buckets=320, encoder_max_distance=800)
BUILDS = {
    "wav2vec2_base": lambda: models.wav2vec2_model(**BASE),
    "wav2vec2_large_lv60k, finetuned": lambda: models.wav2vec2_model(**LARGE | {"aux_num_out": 29}),
    "wavlm_base": lambda: models.wavlm_model(**BASE, **POSITIONS),
    "wavlm_large": lambda: models.wavlm_model(**LARGE | {"extractor_conv_bias": False}, **POSITIONS),
}


@pytest.mark.parametrize("name", BUILDS)
@torch.no_grad()
def test_hidden_states_equal_torchaudios(name, tmp_path):
    torch.manual_seed(0)
    theirs = BUILDS[name]().eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = load_teacher(tmp_path / "model.pth")
    waveforms, _ = ours.prepare([torch.randn(3200)])
    expected, _ = theirs.extract_features(waveforms)
    found = ours(waveforms).hidden_states[1:]
    if ours.config.layer_norm_first:  # torchaudio gives the last layer before the norm behind it
        expected[-1] = theirs.encoder.transformer.layer_norm(expected[-1])
    assert largest_difference(found, expected) <= 1e-5
    assert ours.config.family == ("wavlm" if "wavlm" in name else "wav2vec2")


def test_another_width_is_refused(tmp_path):
    small = BASE | dict(encoder_embed_dim=96, encoder_num_heads=4, encoder_ff_interm_features=64)
    torch.save(models.wav2vec2_model(**small).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="512 channels and a width of 96"):
        load_teacher(tmp_path / "model.pth")
