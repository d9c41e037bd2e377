"""Our own file: what it keeps, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_encoder, tiny_config, unequal_waveforms
from torch import nn
from torch.nn.utils import prune

import pruned_upstream.files as files
from pruned_upstream.errors import CheckpointError, ConfigError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import load, read_header, read_masks, save
from pruned_upstream.model.config import EncoderConfig, Head, TransformerLayer
from pruned_upstream.model.encoder import Encoder


@pytest.fixture
def saved(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, tiny, provenance={"teacher": "random"})
    return path


def rewrite(path, *, metadata=None, tensors=None):
    """The same file with some metadata or tensors exchanged."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    save_file(tensors or load_file(path), path, metadata=kept | (metadata or {}))


def test_a_head_without_queries_is_built_and_loaded_in_silence(tiny, tmp_path, recwarn):
    layer = TransformerLayer(True, (Head(0, 0, 3),), True, 4)
    config = dataclasses.replace(tiny.config, layers=(layer, *tiny.config.layers[1:]))
    save(tmp_path / "model.safetensors", random_encoder(config), provenance={})
    load(tmp_path / "model.safetensors")
    assert not [str(warning.message) for warning in recwarn if "zero-element" in str(warning.message)]


def test_round_trip(shape, tmp_path):
    encoder = random_encoder(shape)
    path = tmp_path / "model.safetensors"
    save(path, encoder, provenance={"teacher": "random"})
    again = load(path)
    assert again.config == encoder.config
    assert not again.training
    assert read_header(path).provenance == {"teacher": "random"}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with torch.no_grad():
        wavs = unequal_waveforms()
        for ours, theirs in zip(again.extract(wavs).hidden_states, encoder.extract(wavs).hidden_states, strict=True):
            assert torch.equal(ours, theirs)


def test_ragged_shape_survives(tmp_path, tiny):
    layers = (
        TransformerLayer(True, (Head(1, 0, 3), Head(3, 5, 1)), True, 7),
        TransformerLayer(True, (), True, 0),
        TransformerLayer(False, (), False, 0),
    )
    encoder = random_encoder(dataclasses.replace(tiny.config, layers=layers))
    save(tmp_path / "ragged.safetensors", encoder)
    again = load(tmp_path / "ragged.safetensors")
    assert again.config.layers == layers
    with torch.no_grad():
        wavs = unequal_waveforms()
        for ours, theirs in zip(again.extract(wavs).hidden_states, encoder.extract(wavs).hidden_states, strict=True):
            assert torch.equal(ours, theirs)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(saved)
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_is_read_as_single(saved, tiny):
    rewrite(saved, tensors={name: tensor.half() for name, tensor in tiny.state_dict().items()})
    assert {p.dtype for p in load(saved).parameters()} == {torch.float32}


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)


def test_truncated_empty_and_foreign(saved, tmp_path):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load(saved)
    saved.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        load(saved)
    saved.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        load(saved)
    save_file({"a": torch.zeros(1)}, saved, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="another program"):
        load(saved)


def test_unknown_version_and_metadata(saved):
    rewrite(saved, metadata={"version": "99"})
    with pytest.raises(CheckpointError, match="version .99."):
        load(saved)
    rewrite(saved, metadata={"version": "1", "colour": "red"})
    with pytest.raises(CheckpointError, match="colour"):
        load(saved)


def test_tensors_that_do_not_fit_are_named(saved):
    whole = load_file(saved)
    rewrite(saved, tensors={name: tensor for name, tensor in whole.items() if name != "layer_norm.bias"})
    with pytest.raises(CheckpointError, match=r"missing tensors layer_norm\.bias"):
        load(saved)
    rewrite(saved, tensors=whole | {"stowaway": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="unexpected stowaway"):
        load(saved)
    rewrite(saved, tensors=whole | {"layer_norm.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"layer_norm\.bias has shape \(3,\)"):
        load(saved)


def test_a_full_disk_leaves_the_old_file(saved, tiny, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PrunedUpstreamError, match="No space left on device"):
        save(saved, tiny)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "moonshine"}, "family is 'moonshine'; it must be one of"),
        ({"num_heads": 5}, "not divisible"),
        ({"layers": []}, "number of layers is 0"),
        ({"embed_dim": "24"}, "must be of type int"),
        ({"tempo": 3}, "unknown keys"),
    ],
)
def test_impossible_descriptions(tiny, change, message):
    tree = json.loads(tiny.config.to_json()) | change
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    "layer",
    [
        TransformerLayer(True, (Head(3, 2, 2), Head(1, 2, 2)), True, 4),
        TransformerLayer(True, (Head(0, 2, 0),), True, 4),
        TransformerLayer(False, (Head(0, 2, 2),), True, 4),
        TransformerLayer(True, (), False, 4),
        TransformerLayer(True, (), True, 41),
    ],
)
def test_impossible_layers(tiny, layer):
    with pytest.raises(ConfigError, match="layer 1"):
        dataclasses.replace(tiny.config, layers=(layer,) * 3)


@pytest.fixture
def sparse(tiny, tmp_path):
    """A file in which two matrices are stored as their survivors, one of them without any zero."""
    generator = torch.Generator().manual_seed(0)
    names = "encoder.layers.0.fc1.weight", "encoder.layers.2.self_attn.q_proj.weight"
    masks = {name: torch.rand(tiny.state_dict()[name].shape, generator=generator) < 0.3 for name in names}
    masks[names[1]][:] = True
    with torch.no_grad():
        for name, mask in masks.items():
            tiny.state_dict()[name].mul_(mask)
    path = tmp_path / "sparse.safetensors"
    save(path, tiny, masks=masks)
    return path, masks


def test_sparse_tensors_are_loaded_dense(sparse, tiny, tmp_path):
    path, masks = sparse
    again = load(path)
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert {name: mask.tolist() for name, mask in read_masks(path).items()} == {n: m.tolist() for n, m in masks.items()}
    header = read_header(path)
    assert header.version == "2"
    assert header.sparse == {name: tuple(mask.shape) for name, mask in masks.items()}
    stored = load_file(path)
    name = "encoder.layers.0.fc1.weight"
    assert name not in stored
    assert stored[f"{name}.values"].tolist() == tiny.state_dict()[name][masks[name]].tolist()
    assert stored[f"{name}.mask"].numel() == masks[name].numel() // 8
    save(tmp_path / "dense.safetensors", again)
    assert read_header(tmp_path / "dense.safetensors").version == "1"
    assert not read_masks(tmp_path / "dense.safetensors")


def test_first_weight_is_the_lowest_bit(sparse):
    path, masks = sparse
    first = masks["encoder.layers.0.fc1.weight"].flatten()[:8]
    byte = load_file(path)["encoder.layers.0.fc1.weight.mask"][0].item()
    assert byte == sum(int(alive) << bit for bit, alive in enumerate(first))


def test_a_file_of_survivors_is_small(tiny, tmp_path):
    names = [name for name in tiny.state_dict() if name.endswith(("fc1.weight", "fc2.weight"))]
    masks = {
        name: torch.arange(tiny.state_dict()[name].numel()).view_as(tiny.state_dict()[name]) % 10 == 0 for name in names
    }
    save(tmp_path / "dense.safetensors", tiny)
    with torch.no_grad():
        for name, mask in masks.items():
            tiny.state_dict()[name].mul_(mask)
    save(tmp_path / "sparse.safetensors", tiny, masks=masks)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("dense", "sparse")]
    weights = sum(mask.numel() for mask in masks.values())
    saved = 4 * weights - (4 * weights / 10 + weights / 8)
    assert sizes[0] - sizes[1] == pytest.approx(saved, rel=0.1)


def test_weights_under_a_mask_must_be_zero(tiny, tmp_path):
    masks = {"encoder.layers.0.fc1.weight": torch.zeros(40, 24, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"layers\.0\.fc1\.weight .* is not zero"):
        save(tmp_path / "model.safetensors", tiny, masks=masks)


def test_damaged_masks_are_named(sparse):
    path, _ = sparse
    whole = load_file(path)
    name = "encoder.layers.0.fc1.weight"
    rewrite(path, tensors=whole | {f"{name}.values": whole[f"{name}.values"][:-1]})
    with pytest.raises(CheckpointError, match=r"fc1\.weight says that \d+ weights live, and the file holds \d+"):
        load(path)
    rewrite(path, tensors=whole | {f"{name}.mask": whole[f"{name}.mask"][:-1]})
    with pytest.raises(CheckpointError, match="not one bit for each of 960 weights"):
        load(path)
    rewrite(path, tensors={key: tensor for key, tensor in whole.items() if key != f"{name}.mask"})
    with pytest.raises(CheckpointError, match="its mask or its values are missing"):
        load(path)
    rewrite(path, tensors=whole | {"layer_norm.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="layer_norm.bias has shape"):
        load(path)


def test_a_sparse_file_is_refused_by_what_knows_only_version_1(sparse):
    path, _ = sparse
    rewrite(path, metadata={"version": "1"})
    with pytest.raises(CheckpointError, match="unknown metadata .*sparse"):
        load(path)


@pytest.mark.parametrize(
    "provenance", ["null", "3", "[]", '{"steps": 600}', '{"a": "\\ud800"}', "[" * 50_000 + "]" * 50_000]
)
def test_provenance_is_a_mapping_of_strings(saved, provenance):
    rewrite(saved, metadata={"provenance": provenance})
    for read in (load, read_header):
        with pytest.raises(CheckpointError, match=r"provenance|description"):
            read(saved)


@pytest.mark.parametrize("key", ["conv_pos_depth", "prediction_heads", "embed_dim", "ffn_dim", "conv_pos"])
def test_counts_of_a_description_are_bounded(saved, key):
    tree = json.loads(read_header(saved).config.to_json()) | {key: 10**9}
    rewrite(saved, metadata={"config": json.dumps(tree)})
    with pytest.raises(CheckpointError, match=f"{key} is 1000000000"):
        load(saved)


def test_a_table_of_fewer_than_no_positions(saved):
    tree = json.loads(read_header(saved).config.to_json()) | {"positions": -1}
    rewrite(saved, metadata={"config": json.dumps(tree)})
    with pytest.raises(CheckpointError, match="positions -1"):
        load(saved)


def test_a_description_of_more_weights_than_there_are(saved):
    tree = json.loads(read_header(saved).config.to_json())
    tree["prediction_heads"] = 500
    rewrite(saved, metadata={"config": json.dumps(tree)})
    with pytest.raises(CheckpointError, match="describes an encoder of"):
        read_header(saved)
    with pytest.raises(CheckpointError, match=r"missing tensors prediction_heads|describes an encoder of"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weight: weight.fill_(float("nan")), r"holds NaN or infinity \(\d+ of"),
        (lambda weight: weight.double() + 1e300, "holds NaN or infinity"),  # beyond single precision
        (lambda weight: weight.index_fill_(0, torch.tensor(1), -torch.inf), r"holds NaN or infinity \(1 of"),
        (lambda weight: weight.mul_(torch.inf), "holds NaN or infinity"),  # inf - inf
        (lambda weight: weight.long(), "of whole or complex numbers"),
        (lambda weight: weight.to(torch.complex64), "of whole or complex numbers"),
    ],
)
def test_weights_are_finite_numbers(saved, change, reason):
    tensors = load_file(saved)
    tensors["layer_norm.weight"] = change(tensors["layer_norm.weight"])
    rewrite(saved, tensors=tensors)
    with pytest.raises(CheckpointError, match=rf"layer_norm\.weight.* {reason}|layer_norm\.weight {reason}"):
        load(saved)


def test_finite_weights_whose_sum_is_not(saved):
    tensors = load_file(saved)
    tensors["layer_norm.weight"].fill_(3e38)
    rewrite(saved, tensors=tensors)
    assert (load(saved).layer_norm.weight == 3e38).all()


def test_nothing_is_drawn_to_be_thrown_away(saved, monkeypatch):
    monkeypatch.setattr(Encoder, "reset_parameters", lambda encoder: pytest.fail("drew weights"))
    load(saved)


@pytest.mark.parametrize("shape", ["[1e400]", "[-3]", "3", "[true]", "null", '["a"]'])
def test_shapes_of_sparse_tensors(saved, shape):
    rewrite(saved, metadata={"version": "2", "sparse": f'{{"encoder.layers.0.fc1.weight": {shape}}}'})
    with pytest.raises(CheckpointError, match="sparse tensors"):
        load(saved)


def test_names_that_no_file_can_have():
    for name in ("a" * 300, "a\0b", "x/" * 3000):
        with pytest.raises(CheckpointError, match="there is no model file"):
            load(name)


def without_layers(encoder):
    encoder.encoder.layers = encoder.encoder.layers[:1]


def masked(encoder):
    prune.l1_unstructured(encoder.encoder.layers[0].fc1, "weight", 0.5)


def narrowed(encoder):
    encoder.encoder.layers[0].fc1 = nn.Linear(24, 20)


@pytest.mark.parametrize("change", [without_layers, masked, narrowed])
def test_what_could_not_be_loaded_is_not_saved(change, tmp_path):
    encoder = random_encoder(tiny_config())
    change(encoder)
    with pytest.raises(ConfigError, match=r"not what its config describes.*encoder\.layers"):
        save(tmp_path / "model.safetensors", encoder)
    with pytest.raises(ConfigError, match="this is a Sequential"):
        save(tmp_path / "model.safetensors", nn.Sequential(encoder))
    assert not list(tmp_path.iterdir())
