"""transformers is the oracle for the folders it writes: same weights, same hidden states."""

from __future__ import annotations

import pytest
import torch
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.convert import load_teacher

# transformers imports torchaudio where it is installed, and that import needs the layer on CPU-only torch
pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()
transformers = pytest.importorskip("transformers")

TINY = dict(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    conv_dim=(16, 16, 16),
    conv_kernel=(10, 3, 2),
    conv_stride=(5, 2, 2),
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4,
)
MODELS = {
    "wavlm": ("WavLM", dict(num_buckets=32, max_bucket_distance=40)),
    "wavlm_prenorm": (
        "WavLM",
        dict(num_buckets=32, max_bucket_distance=40, do_stable_layer_norm=True, feat_extract_norm="layer"),
    ),
    "hubert": ("Hubert", {}),
    "hubert_prenorm": ("Hubert", dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)),
    "wav2vec2": ("Wav2Vec2", {}),
    "data2vec": ("Data2VecAudio", dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=5)),
}


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_folder_gives_the_same_hidden_states(name, tmp_path):
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**(TINY | changes))).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_teacher(tmp_path)
    waveforms, _ = ours.prepare(unequal_waveforms((1600,)))
    output = theirs(waveforms, output_hidden_states=True)
    # transformers 5 leaves the final norm of pre-norm models out of hidden_states
    expected = [*output.hidden_states[:-1], output.last_hidden_state]
    assert largest_difference(ours(waveforms).hidden_states, expected) <= 1e-5


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="without config.json"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(CheckpointError, match="whisper"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_teacher(tmp_path)
