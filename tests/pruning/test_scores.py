"""Scores of dimensions without training: what they are, the cut they make, and where they start gates."""

from __future__ import annotations

import pytest
import torch
from tiny import SHAPES, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import DataError
from pruned_upstream.model.gating import EncoderGates, LayerGates
from pruned_upstream.pruning.compaction import compact, compact_config, verify
from pruned_upstream.pruning.gates import Gates, GateSettings, gate_shapes
from pruned_upstream.pruning.repair import repair
from pruned_upstream.pruning.scores import cut_by_scores, dimension_scores, warm_start_
from pruned_upstream.pruning.sparsity import counted_sparsity

ALL = GateSettings(conv=True)


def speech(encoder, batches: int = 3):
    return [encoder.prepare(unequal_waveforms((4000, 3000, 1500), seed=seed)) for seed in range(batches)]


def test_a_score_is_the_deviation_times_the_norm_of_its_column() -> None:
    encoder = random_encoder(tiny_config())
    heard = speech(encoder)
    reads: dict[str, list[torch.Tensor]] = {"fc2": [], "out_proj": [], "self_attn": []}
    layer = encoder.encoder.layers[1]
    for name, module in (("fc2", layer.fc2), ("out_proj", layer.self_attn.out_proj), ("self_attn", layer.self_attn)):
        module.register_forward_pre_hook(lambda module, inputs, name=name: reads[name].append(inputs[0]))
    scores = dimension_scores(encoder, heard)
    with torch.no_grad():
        valid = [~encoder(*batch).padding_mask for batch in heard]
        del valid[3:]
        read = {name: torch.cat([x[v] for x, v in zip(xs, valid, strict=False)]) for name, xs in reads.items()}
        ffn = read["fc2"].std(0, correction=0) * layer.fc2.weight.norm(dim=0)
        vo = read["out_proj"].std(0, correction=0) * layer.self_attn.out_proj.weight.norm(dim=0)
        query, key = (p(read["self_attn"]) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        qk = query.square().mean(0).sqrt() * key.std(0, correction=0)
    torch.testing.assert_close(scores["ffn"][1].float(), ffn, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores["vo"][1].flatten().float(), vo, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores["qk"][1].flatten().float(), qk, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [GateSettings(), GateSettings(fine_grained=False), ALL], ids=["", "heads", "conv"])
def test_there_is_a_score_for_every_gate_but_those_of_sublayers(shape, settings: GateSettings) -> None:
    encoder = random_encoder(shape)
    scores = dimension_scores(encoder, speech(encoder, 1), settings)
    wanted = {k: s for k, s in gate_shapes(shape, settings).items() if k not in ("attention", "feed_forward")}
    assert {kind: tuple(score.shape) for kind, score in scores.items()} == wanted
    assert all(score.isfinite().all() and (score > 0).any() for score in scores.values())


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("scope", ["transformer", "everything"])
def test_the_cut_meets_its_target_and_keeps_the_best(target: float, scope: str) -> None:
    encoder = random_encoder(tiny_config())
    settings = ALL if scope == "everything" else GateSettings()
    scores = dimension_scores(encoder, speech(encoder), settings)
    gates = cut_by_scores(encoder.config, scores, target, cost=scope)
    reached = counted_sparsity(encoder.config, compact_config(encoder.config, gates), scope)
    assert reached == pytest.approx(target, abs=0.05)  # a tiny model has coarse rows
    for layer, score in zip(gates.layers, scores["ffn"], strict=True):
        assert set(layer.ffn.tolist()) <= {0.0, 1.0}
        if 0 < layer.ffn.sum() < layer.ffn.numel():
            assert score[layer.ffn == 1].min() >= score[layer.ffn == 0].max()


def test_no_convolution_loses_all_its_channels() -> None:
    encoder = random_encoder(tiny_config())
    gates = cut_by_scores(encoder.config, dimension_scores(encoder, speech(encoder), ALL), 0.99, cost="everything")
    assert all(gate.sum() >= 1 for gate in gates.conv)


def test_what_the_scores_keep_is_better_than_chance_and_repair_better_still() -> None:
    encoder = random_encoder(tiny_config())
    with torch.no_grad():  # half of all dimensions hardly do anything
        for layer in encoder.encoder.layers:
            layer.fc2.weight[:, ::2] *= 0.01
            layer.self_attn.out_proj.weight[:, ::2] *= 0.01
    heard = speech(encoder, 6)
    scores = dimension_scores(encoder, heard)
    chosen = compact(encoder, cut_by_scores(encoder.config, scores, 0.4))
    torch.manual_seed(0)
    random = {kind: torch.rand(score.shape) for kind, score in scores.items()}
    drawn = compact(encoder, cut_by_scores(encoder.config, random, 0.4))
    by_score, by_chance = (repair(encoder, student, heard) for student in (chosen, drawn))
    assert by_score.before < 0.5 * by_chance.before
    assert by_score.after < by_score.before
    assert by_score.after < 0.5 * by_chance.after


def test_a_compact_encoder_is_scored_and_cut_further() -> None:
    encoder = random_encoder(tiny_config())
    dead = LayerGates(vo=torch.zeros(24), feed_forward=torch.tensor(0.0))
    uneven = LayerGates(vo=torch.tensor([1.0] * 7 + [0.0] * 17), ffn=(torch.arange(40) % 3 > 0).float())
    smaller = compact(encoder, EncoderGates([LayerGates(), dead, uneven]))
    before = counted_sparsity(encoder.config, smaller.config)
    scores = dimension_scores(smaller, speech(smaller))
    assert (scores["ffn"][1] == 0).all()
    assert int((scores["vo"][2] > 0).sum()) == 7
    gates = cut_by_scores(smaller.config, scores, 0.8)
    smallest = compact(smaller, gates)
    assert counted_sparsity(encoder.config, smallest.config) == pytest.approx(0.8, abs=0.05)
    assert before < 0.8
    verify(smaller, gates, smallest, speech(smaller, 1))


def test_no_speech_is_refused(tiny) -> None:
    with pytest.raises(DataError, match="scores need speech"):
        dimension_scores(tiny, [])


def test_gates_start_in_the_order_of_the_scores() -> None:
    config = SHAPES["wavlm"]
    torch.manual_seed(0)
    gates = Gates(config, GateSettings(init_std=0.0))
    start = {kind: p.detach().clone() for kind, p in gates.log_alpha.items()}
    scores = {"ffn": torch.arange(3.0 * 40).view(3, 40), "qk": torch.rand(3, 4, 6)}
    warm_start_(gates, scores, spread=0.5)
    moved = gates.log_alpha["ffn"] - start["ffn"]
    torch.testing.assert_close(moved, torch.linspace(-0.5, 0.5, 40).expand(3, 40))
    qk = gates.log_alpha["qk"] - start["qk"]
    for layer in range(3):
        assert qk[layer].flatten().argsort().tolist() == scores["qk"][layer].flatten().argsort().tolist()
    assert torch.equal(gates.log_alpha["vo"], start["vo"])


@pytest.mark.parametrize("target", [0.5, 0.67, 0.8])
def test_where_whole_heads_go_feed_forward_dimensions_meet_the_target(target: float) -> None:
    """Six heads of 48 rows each: one of them alone is 5 % of this encoder, and a feed-forward dimension 0.3 %."""
    encoder = random_encoder(tiny_config(num_heads=2))
    scores = dimension_scores(encoder, speech(encoder), GateSettings(fine_grained=False))
    reached = compact_config(encoder.config, cut_by_scores(encoder.config, scores, target))
    assert counted_sparsity(encoder.config, reached) == pytest.approx(target, abs=0.003)
