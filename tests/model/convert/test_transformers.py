"""transformers is the oracle for the folders it writes: same weights, same hidden states."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import fairseq_options, largest_difference, tiny_config, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.checkpoint import load, read_header
from pruned_upstream.model.convert import load_teacher

# transformers imports torchaudio where it is installed, and that import needs the layer on CPU-only torch
pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()
transformers = pytest.importorskip("transformers")

DENSE = tiny_config()
TINY = dict(
    hidden_size=DENSE.embed_dim,
    num_hidden_layers=DENSE.num_layers,
    num_attention_heads=DENSE.num_heads,
    intermediate_size=DENSE.ffn_dim,
    conv_dim=[layer.channels for layer in DENSE.conv],
    conv_kernel=[layer.kernel for layer in DENSE.conv],
    conv_stride=[layer.stride for layer in DENSE.conv],
    num_feat_extract_layers=len(DENSE.conv),
    num_conv_pos_embeddings=DENSE.conv_pos,
    num_conv_pos_embedding_groups=DENSE.conv_pos_groups,
)
POSITIONS = dict(num_buckets=DENSE.relative_position.buckets, max_bucket_distance=DENSE.relative_position.max_distance)
MODELS = {
    "wavlm": ("WavLM", POSITIONS),
    "wavlm_prenorm": ("WavLM", POSITIONS | dict(do_stable_layer_norm=True, feat_extract_norm="layer")),
    "hubert": ("Hubert", {}),
    "hubert_prenorm": ("Hubert", dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)),
    "wav2vec2": ("Wav2Vec2", {}),
    "data2vec": ("Data2VecAudio", dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=5)),
    "wav2vec2_prenorm": ("Wav2Vec2", dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)),
}


def saved(name, folder):
    """A model of transformers, every parameter moved from where it starts, and ours from its folder."""
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**(TINY | changes))).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(folder)
    return theirs, load_teacher(folder)


def states_of(theirs, waveforms, **masks):
    output = theirs(waveforms, output_hidden_states=True, **masks)
    # transformers 5 leaves the final norm of pre-norm models out of hidden_states
    return [*output.hidden_states[:-1], output.last_hidden_state]


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_folder_gives_the_same_hidden_states(name, tmp_path):
    theirs, ours = saved(name, tmp_path)
    waveforms, _ = ours.prepare(unequal_waveforms((1600,)))
    assert largest_difference(ours(waveforms).hidden_states, states_of(theirs, waveforms)) <= 1e-5


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_prenorm", "data2vec"])
@torch.no_grad()
def test_padding_is_theirs(name, tmp_path):
    """Where fairseq counts frames exactly, as transformers does for every family."""
    theirs, ours = saved(name, tmp_path)
    waveforms, lengths = ours.prepare(unequal_waveforms())
    mask = (torch.arange(waveforms.size(1)) < lengths[:, None]).long()
    output = ours(waveforms, lengths)
    expected = states_of(theirs, waveforms, attention_mask=mask)
    assert largest_difference(output.hidden_states, expected, output.padding_mask) <= 1e-5


@pytest.mark.parametrize("name", ["hubert", "hubert_prenorm", "wav2vec2", "wav2vec2_prenorm", "data2vec"])
@torch.no_grad()
def test_fairseqs_file_of_the_same_weights(name, tmp_path):
    """The names of both are right only if both files give one encoder."""
    theirs, ours = saved(name, tmp_path)
    weights = ours.state_dict()
    c = ours.config
    model = fairseq_options(c) | {
        "_name": {"data2vec": "data2vec_audio"}.get(c.family, c.family),
        "pos_conv_depth": c.conv_pos_depth,
    }
    torch.save({"cfg": {"model": model, "task": {"normalize": c.normalize}}, "model": weights}, tmp_path / "model.pt")
    again = load_teacher(tmp_path / "model.pt")
    assert again.config == c
    waveforms, _ = again.prepare(unequal_waveforms((1600,)))
    assert largest_difference(again(waveforms).hidden_states, states_of(theirs, waveforms)) <= 1e-5


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="without config.json"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "moonshine"}')
    with pytest.raises(CheckpointError, match="moonshine"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_teacher(tmp_path)


@torch.no_grad()
def test_a_folder_in_parts(tmp_path):
    _, ours = saved("wavlm", tmp_path)
    in_parts(tmp_path)
    again = load_teacher(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for part in ("../model-1.safetensors", "/etc/passwd", 3):
        index.write_text(json.dumps({"weight_map": places | {next(iter(places)): part}}))
        with pytest.raises(CheckpointError, match="files beside it"):
            load_teacher(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"stowaway": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="does not hold what"):
        load_teacher(tmp_path)
    index.write_text(json.dumps({"weight_map": places}))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model file .*model-2"):
        load_teacher(tmp_path)


@torch.no_grad()
def test_a_file_of_a_folder_is_answered_with_the_folder(tmp_path):
    folder = tmp_path / "hub"
    saved("wavlm", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a checkpoint of torch"):
        load(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="hub OUT.safetensors` makes a model file"):
        load_teacher(folder / "pytorch_model.bin")
    in_parts(folder)
    for name in ("config.json", "model.safetensors.index.json", "model-1.safetensors"):
        for read in (load, read_header, load_teacher):
            with pytest.raises(CheckpointError, match="hub OUT.safetensors` makes a model file"):
                read(folder / name)


def in_parts(folder):
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + number % 2}.safetensors" for number, name in enumerate(sorted(whole))}
    for part in set(places.values()):
        save_file({name: whole[name] for name, place in places.items() if place == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_kernel": [10, 3]},
        {"conv_dim": 3},
        {"conv_stride": ["5", 2, 2]},
        {"num_hidden_layers": 1e400},
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": True},
        {"hidden_size": [24]},
        {"model_type": ["wavlm"]},
        {"num_buckets": 0},
        {"max_bucket_distance": 1},
        {"do_stable_layer_norm": "yes"},
        {"hidden_act": {}},
        {"feat_extract_norm": "batch"},
        {"feat_extract_norm": [1]},
        {"layer_norm_eps": 1e-3},
    ],
)
@torch.no_grad()
def test_a_configuration_of_any_shape_is_answered(changes, tmp_path):
    saved("wavlm", tmp_path)
    description = tmp_path / "config.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_teacher(tmp_path)
    for text in ("[]", "null", "[" * 100_000, "\xff"):
        description.write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError, match=r"config\.json"):
            load_teacher(tmp_path)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert"])
@torch.no_grad()
def test_adapters_of_languages_cannot_be_folded(kind, tmp_path):
    """MMS: transformers builds adapters behind pre-norm layers alone, and they are not linear."""
    changes = dict(adapter_attn_dim=4, feat_extract_norm="layer", conv_bias=True)

    def write(**more):
        config = getattr(transformers, f"{kind}Config")(**(TINY | changes | more))
        getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)

    write(do_stable_layer_norm=True)
    with pytest.raises(CheckpointError, match="adapter_attn_dim 4: .*not linear, so adapters cannot be folded"):
        load_teacher(tmp_path)
    write(do_stable_layer_norm=False)
    assert load_teacher(tmp_path).config.num_layers == DENSE.num_layers
