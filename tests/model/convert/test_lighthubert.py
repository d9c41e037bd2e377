"""LightHuBERT's subnets: against the public class as s3prl carries it, and against a subnet that is masked by hand."""

from __future__ import annotations

import pytest
import torch
from published import TINY, randomise
from tiny import largest_difference, tiny_config, unequal_waveforms

from pruned_upstream.errors import CheckpointError
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.encoder import Encoder

WIDE, HEADS, FFN = 192, 3, 768
SUPERNET = dict(
    encoder_layers=12, encoder_embed_dim=WIDE, encoder_attention_heads=HEADS, encoder_ffn_embed_dim=FFN,
    extractor_mode="layer_norm", layer_norm_first=False,
)  # fmt: skip
SUBNET = dict(
    layer_num=10, embed_dim=128, atten_dim=[128, 64] * 5, heads_num=[2, 1] * 5, ffn_embed=[512, 448, 384, 130, 1] * 2,
    slide_wsz=["global"] * 10,
)  # fmt: skip


def checkpoint_of(weights, options, *, kind="hubert_pruner", supernet="base", **more):
    """As the public files: options of a fairseq plug-in, which know the supernet by a file of its own."""
    model = options | {"_name": kind, "pruner_supernet": f"config/supernet_{supernet}.yaml"}
    pretraining = {"mask_emb": torch.zeros(4), "layer_pred_heads.11.weight": torch.zeros(4, 4)}
    return {"cfg": {"model": model, "task": {"normalize": True}}, "model": pretraining | weights} | more


# --- the public class -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public():
    """An expert of s3prl for a checkpoint, and the weights of one supernet for all tests."""
    pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()
    return pytest.importorskip("s3prl.upstream.lighthubert.expert")


@pytest.fixture(scope="module")
def weights_of(public):
    made = {}

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            torch.manual_seed(0)
            model = public.LightHuBERT(public.LightHuBERTConfig(options))
            randomise(model)
            made[key] = model.state_dict()
        return made[key]

    return make


# a base subnet with layers of their own widths
UNEVEN = dict(
    layer_num=12, embed_dim=640, atten_dim=[640, 512] * 6, heads_num=[10, 8] * 6, ffn_embed=[2560, 2240, 2240] * 4,
    slide_wsz=["global"] * 12,
)  # fmt: skip
# one of the small supernet, without two layers
SHALLOW = dict(
    layer_num=10, embed_dim=384, atten_dim=[384, 256] * 5, heads_num=[6, 4] * 5, ffn_embed=[1152, 1344] * 5,
    slide_wsz=["global"] * 10,
)  # fmt: skip
CASES = {
    "base": ("hubert_pruner", "base", {}, None),
    "small": ("hubert_pruner", "small", {}, None),
    "first stage": ("student_hubert", "base", {}, None),
    "uneven": ("hubert_pruner", "base", {}, UNEVEN),
    "shallow": ("hubert_pruner", "small", {}, SHALLOW),
    "data2vec's position convolutions": ("hubert_pruner", "base", {"pos_conv_depth": 5, "conv_pos": 95}, None),
    "pre-norm, group norm": (
        "hubert_pruner", "small", {"layer_norm_first": True, "extractor_mode": "default"}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_hidden_states_equal_s3prl(case, public, weights_of, tmp_path):
    kind, supernet, options, subnet = CASES[case]
    weights, path = weights_of(**options), tmp_path / "lighthubert.pt"
    torch.save(checkpoint_of(weights, options, kind=kind, supernet=supernet), path)
    expert = public.UpstreamExpert(str(path)).eval()
    if subnet is not None:
        expert.model.set_sample_config(subnet)
        torch.save(checkpoint_of(weights, options, kind=kind, supernet=supernet, subnet=subnet), path)
    ours = load_teacher(path)
    path.unlink()  # 380 MB, which pytest would keep
    assert ours.config.family == "hubert"
    wavs = unequal_waveforms((8000, 5000))
    output = ours.extract(wavs)
    expected = expert(wavs)["hidden_states"]
    if ours.config.layer_norm_first:  # theirs is the last layer before the norm behind it
        expected[-1] = expert.model.encoder.layer_norm(expected[-1])
    # their first is the projected features, before the position convolution; padded frames are nobody's
    states = [output.projected, *output.hidden_states[1:]]
    assert len(states) == len(expected)
    assert largest_difference(states, expected, output.padding_mask) <= 1e-5


# --- by hand ----------------------------------------------------------------------------------------


def supernet():
    """An encoder of ours as a supernet: the same names, and twelve layers of heads of 64."""
    torch.manual_seed(0)
    shape = dict(num_layers=12, embed_dim=WIDE, num_heads=HEADS, ffn_dim=FFN, extractor_mode="layer_norm")
    config = tiny_config(family="hubert", normalize=True, relative_position=None, **shape)
    model = Encoder(config).eval()
    randomise(model)
    return model.state_dict(), TINY | SUPERNET


def by_hand(weights):
    """A dense encoder of the subnet's width with zeros for every head and dimension that the subnet lacks.

    What a head or dimension gives is multiplied by a column of zeros, so this computes the subnet without its cuts.
    """
    d = SUBNET["embed_dim"]
    config = tiny_config(
        family="hubert", normalize=True, relative_position=None, extractor_mode="layer_norm", num_layers=10,
        embed_dim=d, num_heads=2, ffn_dim=4 * d,
    )  # fmt: skip
    model = Encoder(config).eval()
    own = model.state_dict()
    for name in own:
        if name.startswith(("feature_extractor.", "layer_norm.")):
            own[name] = weights[name]
    g, v = weights["encoder.pos_conv.0.weight_g"], weights["encoder.pos_conv.0.weight_v"]
    whole = torch._weight_norm(v, g, 2)
    share = whole[:d, : d // config.conv_pos_groups]
    own["encoder.pos_conv.0.weight_v"] = share
    own["encoder.pos_conv.0.weight_g"] = torch.linalg.vector_norm(share, dim=(0, 1), keepdim=True)
    for name in ("encoder.pos_conv.0.bias", "encoder.layer_norm.weight", "encoder.layer_norm.bias"):
        own[name] = weights[name][:d]
    own["post_extract_proj.weight"], own["post_extract_proj.bias"] = (
        weights[f"post_extract_proj.{kind}"][:d] for kind in ("weight", "bias")
    )
    # of four stretches of 192, the first 128 of each
    stretches = [WIDE * stretch + i for stretch in range(4) for i in range(d)]
    for number, (old, heads, ffn) in enumerate(
        zip((0, 1, 2, 3, 4, 5, 6, 8, 9, 10), SUBNET["heads_num"], SUBNET["ffn_embed"], strict=True)
    ):
        theirs, ours = f"encoder.layers.{old}.", f"encoder.layers.{number}."
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            for kind in ("weight", "bias"):
                own[f"{ours}{norm}.{kind}"] = weights[f"{theirs}{norm}.{kind}"][:d]
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"self_attn.{projection}"
            own[f"{ours}{name}.weight"] = weights[f"{theirs}{name}.weight"][:d, :d].clone()
            own[f"{ours}{name}.bias"] = weights[f"{theirs}{name}.bias"][:d]
        own[f"{ours}self_attn.out_proj.weight"][:, 64 * heads :] = 0
        own[f"{ours}fc1.weight"] = weights[f"{theirs}fc1.weight"][stretches, :d]
        own[f"{ours}fc1.bias"] = weights[f"{theirs}fc1.bias"][stretches]
        own[f"{ours}fc2.weight"] = weights[f"{theirs}fc2.weight"][:d, stretches]
        own[f"{ours}fc2.weight"][:, ffn:] = 0
        own[f"{ours}fc2.bias"] = weights[f"{theirs}fc2.bias"][:d]
    model.load_state_dict(own)
    return model


@torch.no_grad()
def test_a_subnet_equals_the_masked_one(tmp_path):
    weights, options = supernet()
    torch.save(checkpoint_of(weights, options, subnet=SUBNET), tmp_path / "lighthubert.pt")
    ours = load_teacher(tmp_path / "lighthubert.pt")
    assert [(len(layer.heads), layer.ffn) for layer in ours.config.layers] == list(
        zip(SUBNET["heads_num"], SUBNET["ffn_embed"], strict=True)
    )
    waveforms, lengths = ours.prepare(unequal_waveforms())
    output, expected = ours(waveforms, lengths), by_hand(weights)(waveforms, lengths)
    assert largest_difference(output.hidden_states, expected.hidden_states, output.padding_mask) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads_num": [3] * 10}, "at most 2 heads of 64"),
        ({"embed_dim": 256}, "not a multiple of 64 from 64 to 192"),
        ({"ffn_embed": [513] * 10}, "at most 512"),
        ({"ffn_embed": 512}, "must list a number for each of 10"),
        ({"slide_wsz": ["global"] * 9 + [32]}, "sliding window is not supported"),
        ({"layer_num": 5, "heads_num": [2] * 5, "ffn_embed": [512] * 5}, "5 of 12 layers"),
        ({"layer_num": None}, "layer_num is None"),
    ],
)
def test_subnets_that_do_not_fit(changes, match, tmp_path):
    weights, options = supernet()
    torch.save(checkpoint_of(weights, options, subnet=SUBNET | changes), tmp_path / "lighthubert.pt")
    with pytest.raises(CheckpointError, match=match):
        load_teacher(tmp_path / "lighthubert.pt")


def test_supernets_that_do_not_fit(tmp_path):
    weights, options = supernet()

    def refused(checkpoint, match):
        torch.save(checkpoint, tmp_path / "lighthubert.pt")
        with pytest.raises(CheckpointError, match=match):
            load_teacher(tmp_path / "lighthubert.pt")

    refused(checkpoint_of(weights, options, supernet="tiny"), r"supernet_tiny\.yaml.* base\.yaml or small\.yaml")
    refused(checkpoint_of(weights, options), "embed_dim 640 of a subnet is not a multiple of 64 from 64 to 192")
    refused(checkpoint_of(weights | {"stowaway": torch.zeros(1)}, options, subnet=SUBNET), "unexpected stowaway")
    sparse = options | {"prune_encoder_pos_conv": False}
    refused(checkpoint_of(weights, sparse, subnet=SUBNET), "prune_encoder_pos_conv")
    del weights["encoder.layers.3.fc1.bias"]
    refused(checkpoint_of(weights, options, subnet=SUBNET), r"missing tensors encoder\.layers\.3\.fc1\.bias")


def test_a_subnet_as_wide_as_the_features_is_refused(tmp_path):
    weights, options = supernet()
    wide = options | {"conv_feature_layers": "[(16,10,5),(16,3,2),(128,2,2)]"}
    torch.save(checkpoint_of(weights, wide, subnet=SUBNET), tmp_path / "lighthubert.pt")
    with pytest.raises(CheckpointError, match="embed_dim 128 is the width of the features too"):
        load_teacher(tmp_path / "lighthubert.pt")
