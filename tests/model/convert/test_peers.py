"""Compact models of others: DistilHuBERT against s3prl's own expert, DPHuBERT's format against torchaudio's modules."""

from __future__ import annotations

import argparse

import pytest
import torch
from published import BASE_WIDTH, TINY, randomise
from tiny import largest_difference, tiny_config, unequal_waveforms
from torch import nn

from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.size import count_parameters

pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()

# --- DistilHuBERT -----------------------------------------------------------------------------------


def distiller(options):
    """fairseq's options in the words of s3prl, pretrain/distiller/config_model.yaml, which leaves two of them out."""
    named = {name: options[name] for name in options.keys() - {"conv_bias", "layer_norm_first"}}
    layers = {"extractor_conv_feature_layers": named.pop("conv_feature_layers")}
    return named | layers | {"final_dim": named["encoder_embed_dim"], "n_tasks": 3, "pred_layer_id": [4, 8, 12]}


DISTILLER = distiller(TINY | {"encoder_layers": 2})
PUBLISHED = distiller(BASE_WIDTH)


def write_distiller(path, options):
    """As s3prl's trainer saves it (pretrain/runner.py, pretrain/distiller/pretrain_expert.py)."""
    model = pytest.importorskip("s3prl.upstream.distiller.model")
    student = model.DistillerModel(model.DistillerConfig(options))
    randomise(student)
    checkpoint = {
        "Config": {"distiller": options, "teacher": {"model": "hubert_base"}},
        "Distiller": student.state_dict(),
        "Args": argparse.Namespace(upstream="distiller"),
        "Optimizer": {},
        "Step": 200000,
    }
    torch.save(checkpoint, path)
    return checkpoint


@pytest.mark.parametrize(("options", "lengths"), [(DISTILLER, (1600, 1111, 640)), (PUBLISHED, (16000, 9000))])
@torch.no_grad()
def test_distilhubert_equals_s3prl(options, lengths, tmp_path):
    write_distiller(tmp_path / "distilhubert.ckpt", options)
    ours = load_teacher(tmp_path / "distilhubert.ckpt")
    expert = pytest.importorskip("s3prl.upstream.distiller.expert")
    theirs = expert.UpstreamExpert(str(tmp_path / "distilhubert.ckpt")).eval()
    wavs = unequal_waveforms(lengths)
    expected = theirs(wavs)
    output = ours.extract(wavs)
    layers = expected["hidden_states"][1:3]  # then come predictions of the teacher's layers
    assert torch.equal(expected["paper"], layers[-1])
    assert torch.equal(output.padding_mask, ~expected["pad_mask"].bool())
    states = [output.projected, *output.hidden_states[1:]]
    assert largest_difference(states, [expected["hidden_states"][0], *layers], output.padding_mask) <= 1e-5


@torch.no_grad()
def test_distilhubert_with_the_hidden_states_of_s3prl(tmp_path):
    from pruned_upstream.s3prl_plugin.expert import Options, UpstreamExpert

    write_distiller(tmp_path / "distilhubert.ckpt", DISTILLER)
    theirs = pytest.importorskip("s3prl.upstream.distiller.expert").UpstreamExpert(str(tmp_path / "distilhubert.ckpt"))
    save(tmp_path / "ours.safetensors", load_teacher(tmp_path / "distilhubert.ckpt", prediction_heads=True))
    wavs = unequal_waveforms()
    expected = theirs.eval()(wavs)
    ours = UpstreamExpert(tmp_path / "ours.safetensors", options=Options(states="distilhubert"))(wavs)
    assert len(ours["hidden_states"]) == len(ours["_hidden_states_info"]) == len(expected["hidden_states"]) == 6
    gone = ~expected["pad_mask"].bool()
    assert largest_difference(list(ours["hidden_states"]), expected["hidden_states"], gone) <= 1e-5
    assert largest_difference([ours["paper"]], [expected["paper"]], gone) <= 1e-5
    save(tmp_path / "headless.safetensors", load_teacher(tmp_path / "distilhubert.ckpt"))
    assert len(UpstreamExpert(tmp_path / "headless.safetensors")(wavs)["hidden_states"]) == 3
    with pytest.raises(ConfigError, match="--keep-heads"):
        UpstreamExpert(tmp_path / "headless.safetensors", options=Options(states="distilhubert"))


def test_distilhubert_has_its_published_size(tmp_path):
    write_distiller(tmp_path / "distilhubert.ckpt", PUBLISHED)
    assert round(count_parameters(load_teacher(tmp_path / "distilhubert.ckpt").config) / 1e6, 2) == 23.49


def test_another_student_of_s3prl_is_refused(tmp_path):
    path = tmp_path / "student.ckpt"
    checkpoint = write_distiller(path, DISTILLER)
    checkpoint["Distiller"]["task_embedding.weight"] = torch.zeros(3, 24)
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"unexpected task_embedding\.weight"):
        load_teacher(path)
    checkpoint["Config"]["distiller"]["attention_type"] = "sparse"
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match="attention_type 'sparse' is not supported"):
        load_teacher(path)


# --- DPHuBERT and DPWavLM ---------------------------------------------------------------------------

DENSE = tiny_config()
D, HEADS, WIDTH = DENSE.embed_dim, DENSE.num_heads, DENSE.head_dim
CONV = [(16, 10, 5), (11, 3, 2), (9, 2, 2)]
LIVING = [[0, 2], [], [3], [0, 1, 2, 3]]
FFN = [7, 40, 0, 12]


class Nothing(nn.Module):
    """A sublayer that is gone, in torchaudio's layer, which wants one; it hands the position bias on."""

    embed_dim = D

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends

    def forward(self, x, position_bias=None, **others):
        return (torch.zeros_like(x), position_bias) if self.attends else torch.zeros_like(x)


def shared_options(mode, layer_norm_first):
    return {
        "extractor_mode": mode,
        "extractor_conv_layer_config": CONV,
        "extractor_conv_bias": False,
        "encoder_embed_dim": D,
        "encoder_pos_conv_kernel": DENSE.conv_pos,
        "encoder_pos_conv_groups": DENSE.conv_pos_groups,
        "encoder_num_layers": len(LIVING),
        "encoder_layer_norm_first": layer_norm_first,
    }


POSITIONS = {
    "encoder_num_buckets": DENSE.relative_position.buckets,
    "encoder_max_distance": DENSE.relative_position.max_distance,
}
DROPOUTS = {
    "encoder_projection_dropout": 0.1,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}


def torchaudios(kind, mode, layer_norm_first):
    """torchaudio's model, each layer with its own feed-forward width, and one factor per channel of the features."""
    components = pytest.importorskip("torchaudio.models.wav2vec2.components")
    models = pytest.importorskip("torchaudio.models.wav2vec2.model")
    options = shared_options(mode, layer_norm_first) | DROPOUTS
    options |= {"encoder_num_heads": HEADS, "encoder_ff_interm_features": DENSE.ffn_dim}
    model = models.wavlm_model(**options, **POSITIONS) if kind == "wavlm" else models.wav2vec2_model(**options)
    for layer, ffn in zip(model.encoder.transformer.layers, FFN, strict=True):
        layer.feed_forward = components.FeedForward(D, ffn, 0.0, 0.0) if ffn else Nothing(attends=False)
    front_end = model.feature_extractor
    front_end.dummy_weight = nn.Parameter(torch.ones(CONV[-1][0]))
    front_end.register_forward_hook(lambda module, args, out: (out[0] * module.dummy_weight, out[1]))
    return model


def dphubert(mode="group_norm", layer_norm_first=False):
    """A HuBERT cut by heads, feed-forward widths and channels, and its file."""
    model = torchaudios("hubert", mode, layer_norm_first)
    for layer, living in zip(model.encoder.transformer.layers, LIVING, strict=True):
        if not living:
            layer.attention = Nothing(attends=True)
            continue
        attention, width = layer.attention, len(living) * WIDTH
        attention.num_heads = len(living)
        attention.q_proj, attention.k_proj, attention.v_proj = (nn.Linear(D, width) for _ in range(3))
        attention.out_proj = nn.Linear(width, D)
    randomise(model)
    config = described(mode, layer_norm_first) | {
        "encoder_num_heads": [len(living) for living in LIVING],
        "encoder_head_dim": WIDTH,
    }
    return model.eval(), {"state_dict": model.state_dict(), "config": config, "distill_linear_projs": {}}


def dpwavlm(mode="group_norm", layer_norm_first=False, living=LIVING):
    """A WavLM whose dead heads reach nothing, and the file of what is left of it."""
    model = torchaudios("wavlm", mode, layer_norm_first)
    randomise(model)
    weights = model.state_dict()
    for number, (layer, heads) in enumerate(zip(model.encoder.transformer.layers, living, strict=True)):
        name = f"encoder.transformer.layers.{number}.attention."
        attention, own = layer.attention.attention, [h * WIDTH + i for h in heads for i in range(WIDTH)]
        fused = {kind: weights.pop(f"{name}attention.in_proj_{kind}") for kind in ("weight", "bias")}
        out = {kind: weights.pop(f"{name}attention.out_proj.{kind}").clone() for kind in ("weight", "bias")}
        if not heads:
            layer.attention = Nothing(attends=True)
            weights = {key: tensor for key, tensor in weights.items() if not key.startswith(name)}
            continue
        dead = [row for row in range(D) if row not in own]
        with torch.no_grad():
            attention.out_proj.weight[:, dead] = 0.0
        for kind, tensor in fused.items():
            for projection, part in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{name}{projection}_proj.{kind}"] = part[own]
        weights[f"{name}out_proj.weight"], weights[f"{name}out_proj.bias"] = out["weight"][:, own], out["bias"]
    config = described(mode, layer_norm_first) | {
        "encoder_use_attention": [bool(heads) for heads in living],
        "encoder_total_num_heads": [HEADS] * len(living),
        "encoder_remaining_heads": living,
        **POSITIONS,
    }
    return model.eval(), {"state_dict": weights, "config": config}


def described(mode, layer_norm_first):
    """The `config` that DPHuBERT's prune.py writes."""
    return (
        shared_options(mode, layer_norm_first)
        | DROPOUTS
        | {
            "encoder_use_attention": [bool(living) for living in LIVING],
            "encoder_use_feed_forward": [bool(ffn) for ffn in FFN],
            "encoder_ff_interm_features": FFN,
            "normalize_waveform": mode == "layer_norm",
            "extractor_prune_conv_channels": False,
            "encoder_prune_attention_heads": False,
        }
    )


def torchaudio_states(model, waveforms, lengths):
    """The input of the first layer, the output of each, and that of all."""
    features, frames = model.feature_extractor(waveforms, lengths)
    states = []
    for layer in model.encoder.transformer.layers:
        layer.register_forward_hook(lambda module, args, out: states.append(args[0]))
    last = model.encoder(features, frames)
    return [*states, last]


@pytest.mark.parametrize(("mode", "layer_norm_first"), [("group_norm", False), ("layer_norm", True)])
@torch.no_grad()
def test_dphubert_equals_torchaudio(mode, layer_norm_first, tmp_path):
    theirs, checkpoint = dphubert(mode, layer_norm_first)
    torch.save(checkpoint, tmp_path / "DPHuBERT.pth")
    ours = load_teacher(tmp_path / "DPHuBERT.pth")
    assert ours.config.family == "hubert"
    assert [len(layer.heads) for layer in ours.config.layers] == [2, 0, 1, 4]
    assert count_parameters(ours.config) == sum(p.numel() for p in theirs.parameters())
    # the norms count the living channels alone, but the model they were cut from was wider
    assert [(layer.channels, layer.dense_channels) for layer in ours.config.conv] == [(16, 512), (11, 512), (9, 512)]
    assert EncoderConfig.from_json(ours.config.to_json()) == ours.config and not ours.config.is_dense
    waveforms, lengths = ours.prepare(unequal_waveforms())
    output = ours(waveforms, lengths)
    expected = torchaudio_states(theirs, waveforms, lengths)
    assert largest_difference(output.hidden_states, expected, output.padding_mask) <= 1e-5


@pytest.mark.parametrize(("mode", "layer_norm_first"), [("group_norm", False), ("layer_norm", True)])
@pytest.mark.parametrize("living", [LIVING, [[], [0], [3], [1, 2]]], ids=["some", "none in the first layer"])
@torch.no_grad()
def test_dpwavlm_equals_torchaudio(mode, layer_norm_first, living, tmp_path):
    theirs, checkpoint = dpwavlm(mode, layer_norm_first, living)
    torch.save(checkpoint, tmp_path / "DPWavLM.pth")
    ours = load_teacher(tmp_path / "DPWavLM.pth")
    assert ours.config.family == "wavlm"
    assert [[head.id for head in layer.heads] for layer in ours.config.layers] == living
    waveforms, lengths = ours.prepare(unequal_waveforms((1600,)))
    output = ours(waveforms)
    assert largest_difference(output.hidden_states, torchaudio_states(theirs, waveforms, None)) <= 1e-5


def test_files_of_dphubert_that_do_not_fit(tmp_path):
    path = tmp_path / "DPHuBERT.pth"
    _, checkpoint = dphubert()
    config = checkpoint["config"]

    def refused(match, **changes):
        torch.save(checkpoint | changes, path)
        with pytest.raises(CheckpointError, match=match):
            load_teacher(path)

    refused("still has its gates", config=config | {"encoder_prune_attention_heads": True})
    refused("aux_num_out", config=config | {"aux_num_out": 32})
    refused("does not say encoder_head_dim", config={k: v for k, v in config.items() if k != "encoder_head_dim"})
    refused("extractor_mode 'batch_norm'", config=config | {"extractor_mode": "batch_norm"})
    refused("stowaway", state_dict=checkpoint["state_dict"] | {"stowaway": torch.zeros(1)})


@pytest.mark.parametrize("heads", [10**9, "4", None])
def test_counts_of_dphubert_are_bounded(heads, tmp_path):
    checkpoint = dphubert()
    checkpoint = checkpoint[-1] if isinstance(checkpoint, tuple) else checkpoint
    checkpoint["config"]["encoder_num_heads"] = [heads, *checkpoint["config"]["encoder_num_heads"][1:]]
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="encoder_num_heads"):
        load_teacher(tmp_path / "a.pth")
