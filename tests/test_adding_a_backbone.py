"""The steps of docs/backbones.md with a family that does not exist: shape, weights, oracle, upstream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import largest_difference
from torch import nn
from training.conftest import recipe, recordings, teacher_file  # noqa: F401 (fixtures)

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model import config as model_config
from pruned_upstream.model import convert
from pruned_upstream.model.checkpoint import read_header
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.convert.source import Found, Source
from pruned_upstream.training.prune import run_prune

CONV = ((16, 10, 5), (16, 3, 2), (16, 2, 2))
DIM, HEADS, FFN, LAYERS, KERNEL, GROUPS = 24, 4, 40, 3, 8, 4


class Murmur(nn.Module):
    """Somebody's encoder, in torch's own words."""

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((1, *(c for c, _, _ in CONV)), CONV, strict=False)
        self.convolutions = nn.ModuleList(nn.Conv1d(c_in, c, k, s, bias=False) for c_in, (c, k, s) in sizes)
        self.first_norm = nn.GroupNorm(16, 16)
        self.feature_norm, self.projection = nn.LayerNorm(16), nn.Linear(16, DIM)
        self.positions = nn.Conv1d(DIM, DIM, KERNEL, padding=KERNEL // 2, groups=GROUPS)
        self.norm = nn.LayerNorm(DIM)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(DIM, HEADS, FFN, dropout=0.0, activation=F.gelu, batch_first=True)
            for _ in range(LAYERS)
        )

    def forward(self, waveforms: torch.Tensor) -> list[torch.Tensor]:
        x = waveforms.unsqueeze(1)
        for number, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = F.gelu(self.first_norm(x) if number == 0 else x)
        x = self.projection(self.feature_norm(x.transpose(1, 2)))
        x = self.norm(x + F.gelu(self.positions(x.transpose(1, 2))[..., : x.size(1)]).transpose(1, 2))
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


# step 2: a source, with its table of names
MODULES = {
    "first_norm": "feature_extractor.conv_layers.0.2",
    "feature_norm": "layer_norm",
    "projection": "post_extract_proj",
    "norm": "encoder.layer_norm",
}
IN_LAYER = {
    "self_attn.out_proj": "self_attn.out_proj",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "self_attn_layer_norm",
    "norm2": "final_layer_norm",
}


def read_murmur(checkpoint: dict) -> Found:
    theirs = dict(checkpoint["murmur"])
    tensors = {
        f"feature_extractor.conv_layers.{i}.0.weight": theirs.pop(f"convolutions.{i}.weight") for i in range(len(CONV))
    }
    # ours has the position convolution's weight as weight norm has it
    weight = theirs.pop("positions.weight")
    tensors |= {
        "encoder.pos_conv.0.weight_v": weight,
        "encoder.pos_conv.0.weight_g": torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True),
        "encoder.pos_conv.0.bias": theirs.pop("positions.bias"),
    }
    names = dict(MODULES)
    for i in range(LAYERS):
        names |= {f"layers.{i}.{there}": f"encoder.layers.{i}.{here}" for there, here in IN_LAYER.items()}
        for kind in ("weight", "bias"):
            for which, part in zip("qkv", theirs.pop(f"layers.{i}.self_attn.in_proj_{kind}").chunk(3), strict=True):
                tensors[f"encoder.layers.{i}.self_attn.{which}_proj.{kind}"] = part
    for name, tensor in theirs.items():
        module, _, kind = name.rpartition(".")
        tensors[f"{names.get(module, module)}.{kind}"] = tensor
    config = model_config.dense_config(
        family="murmur", conv_layers=CONV, num_layers=LAYERS, embed_dim=DIM, num_heads=HEADS, ffn_dim=FFN,
        conv_pos=KERNEL, conv_pos_groups=GROUPS,
    )  # fmt: skip
    return Found(config, tensors)


@pytest.fixture
def murmur(monkeypatch, tmp_path):
    """The family added, and a file of it with its oracle."""
    monkeypatch.setattr(model_config, "FAMILIES", (*model_config.FAMILIES, "murmur"))  # step 1
    source = Source("Murmur ('murmur')", lambda checkpoint: "murmur" in checkpoint, read_murmur)
    monkeypatch.setattr(convert, "SOURCES", (*convert.SOURCES, source))
    torch.manual_seed(0)
    oracle = Murmur().eval()
    torch.save({"murmur": oracle.state_dict()}, tmp_path / "murmur.pt")
    return tmp_path / "murmur.pt", oracle


@torch.no_grad()
def test_step_3_hidden_states_equal_the_original(murmur):
    path, oracle = murmur
    waveforms = torch.randn(2, 1600)
    assert largest_difference(load_teacher(path)(waveforms).hidden_states, oracle(waveforms)) <= 1e-5


def test_a_key_that_the_table_lacks_is_named(murmur, tmp_path):
    _, oracle = murmur
    torch.save({"murmur": oracle.state_dict() | {"extra.weight": torch.ones(1)}}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match="unexpected extra.weight"):
        load_teacher(tmp_path / "more.pt")


def test_step_4_it_is_pruned_and_an_upstream(murmur, recipe):  # noqa: F811 (a fixture)
    pytest.importorskip("s3prl")
    from pruned_upstream.s3prl_plugin.registry import entry

    path, _ = murmur
    compact = run_prune(recipe(teacher=str(path)))
    assert read_header(compact).config.family == "murmur"
    upstream = entry("pruned_murmur", "murmur")(str(compact)).eval()
    with torch.no_grad():
        assert len(upstream([torch.randn(1600)])["hidden_states"]) == LAYERS + 1
    with pytest.raises(CheckpointError, match="family murmur"):
        entry("pruned_wavlm", "wavlm")(str(compact))
