"""Every backbone takes the whole way: published file, gates, compact model, upstream of s3prl."""

from __future__ import annotations

import importlib

import pytest
import torch
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.size import count_parameters
from pruned_upstream.pruning.compaction import TOLERANCE, compact, verify
from pruned_upstream.pruning.gates import GateSettings, encoder_gates, gate_shapes

pytest.importorskip("s3prl.upstream.hubert.hubert_model")
from published import LARGE, fairseq_model, s3prl_copy, since_hydra, write  # noqa: E402

import pruned_upstream  # noqa: E402

pruned_upstream.register()
BACKBONES = {
    "hubert_base": ("hubert", {}, False),
    "hubert_large": ("hubert", LARGE, True),
    "wav2vec2_base": ("wav2vec2", {}, False),
    "wav2vec2_large": ("wav2vec2", LARGE | {"conv_bias": True}, True),
    "data2vec_base": ("data2vec", {}, True),
}


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("name", sorted(BACKBONES))
@torch.no_grad()
def test_from_a_published_file_to_an_upstream(name, conv, tmp_path):
    family, options, normalize = BACKBONES[name]
    model, options = fairseq_model(family, **options)
    write(since_hydra(model, options, normalize=normalize), tmp_path / "teacher.pt")
    teacher = load_teacher(tmp_path / "teacher.pt")
    generator = torch.Generator().manual_seed(0)
    settings = GateSettings(conv=conv)
    drawn = {
        kind: (torch.rand(shape, generator=generator) < 0.6).float()
        for kind, shape in gate_shapes(teacher.config, settings).items()
    }
    drawn |= {kind: torch.ones(3) for kind in ("attention", "feed_forward")}
    gates = encoder_gates(teacher.config, drawn)
    smaller = compact(teacher, gates)
    assert count_parameters(smaller.config) < 0.8 * count_parameters(teacher.config)
    wavs = unequal_waveforms()
    waveforms, lengths = teacher.prepare(wavs)
    assert verify(teacher, gates, smaller, [(waveforms, lengths)]) <= TOLERANCE
    save(tmp_path / "compact.safetensors", smaller)

    from s3prl import hub

    upstream = getattr(hub, f"pruned_{family}")(ckpt=str(tmp_path / "compact.safetensors")).eval()
    gated = teacher(waveforms, lengths, gates=gates)
    assert largest_difference(upstream(wavs)["hidden_states"], gated.hidden_states, gated.padding_mask) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(BACKBONES))
@torch.no_grad()
def test_the_answer_is_that_of_s3prls_expert(name, tmp_path):
    """Waveforms of unequal length, as s3prl's tasks hand them over; its experts read their own copies of the files."""
    family, options, normalize = BACKBONES[name]
    model, options = fairseq_model(family, **options)
    write(s3prl_copy(model, options, normalize=normalize), tmp_path / "copy.pt")
    theirs = importlib.import_module(f"s3prl.upstream.{family}.expert").UpstreamExpert(ckpt=str(tmp_path / "copy.pt"))
    ours = load_teacher(tmp_path / "copy.pt")
    wavs = unequal_waveforms((1600, 640, 1111))
    output = ours.extract(wavs)
    expected = theirs.eval()(wavs)["hidden_states"]
    assert largest_difference(output.hidden_states, expected, output.padding_mask) <= 1e-5
