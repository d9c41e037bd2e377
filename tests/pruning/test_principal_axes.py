"""Heads turned to their principal axes: the same function, and the fewest dimensions that say it."""

from __future__ import annotations

import pytest
import torch
from tiny import random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.errors import DataError
from pruned_upstream.model.gating import EncoderGates, LayerGates
from pruned_upstream.pruning.compaction import compact
from pruned_upstream.pruning.principal_axes import turn_heads
from pruned_upstream.pruning.repair import distance
from pruned_upstream.pruning.scores import cut_by_scores, dimension_scores


def speech(encoder, batches: int = 3):
    return [encoder.prepare(unequal_waveforms((4000, 3000, 1500), seed=seed)) for seed in range(batches)]


def difference(encoder, other, batch) -> float:
    with torch.no_grad():
        ours, theirs = (torch.stack(model.eval()(*batch).hidden_states) for model in (encoder, other))
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def test_it_is_the_same_function(shape) -> None:
    encoder = random_encoder(shape).eval()
    turned = turn_heads(encoder, speech(encoder))
    moved = [
        not torch.allclose(a.self_attn.q_proj.weight, b.self_attn.q_proj.weight)
        for a, b in zip(encoder.encoder.layers, turned.encoder.layers, strict=True)
    ]
    assert all(moved)
    assert difference(encoder, turned, speech(encoder, 4)[3]) < 1e-4


def test_scores_are_singular_values_of_what_heads_do() -> None:
    """Eckart and Young, with all pairs of frames laid out: no sum of so few products is nearer to the scores."""
    encoder = random_encoder(tiny_config()).eval()
    heard = speech(encoder)
    read: dict[str, list[torch.Tensor]] = {"self_attn": [], "out_proj": []}
    attention = encoder.encoder.layers[1].self_attn
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: read[name].append(inputs[0]))
        for name, module in (("self_attn", attention), ("out_proj", attention.out_proj))
    ]
    with torch.no_grad():
        masks = [encoder(*batch).padding_mask for batch in heard]
        for hook in hooks:
            hook.remove()
        x, u = (torch.cat([a[~m] for a, m in zip(read[name], masks, strict=True)]).double() for name in read)
        width = encoder.config.head_dim
        rows = slice(2 * width, 3 * width)
        query, key = (
            x @ p.weight[rows].double().t() + p.bias[rows].double() for p in (attention.q_proj, attention.k_proj)
        )
        scores = torch.linalg.svdvals(query @ (key - key.mean(0)).t()) / len(x)
        values = (u[:, rows] - u[:, rows].mean(0)) @ attention.out_proj.weight[:, rows].double().t()
        outputs = torch.linalg.svdvals(values) / len(x) ** 0.5
    found = dimension_scores(turn_heads(encoder, heard), heard)
    torch.testing.assert_close(found["qk"][1, 2], scores[:width], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found["vo"][1, 2], outputs[:width], rtol=1e-3, atol=1e-6)


def test_heads_of_low_rank_are_cut_without_a_loss() -> None:
    """Which no choice among their own dimensions can do, for each holds a part of everything."""
    encoder = random_encoder(tiny_config()).eval()
    width = encoder.config.head_dim
    with torch.no_grad():
        for layer in encoder.encoder.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
                for start in range(0, len(projection.weight), width):
                    mixed = torch.randn(width, width // 2) @ torch.randn(width // 2, width) / width
                    rows = slice(start, start + width)
                    projection.weight[rows] = mixed @ projection.weight[rows]
                    projection.bias[rows] = mixed @ projection.bias[rows]
    heard = speech(encoder)

    def halved(model) -> float:
        scores = dimension_scores(model, heard)
        half = [
            LayerGates(**{kind: _best(scores[kind][number], width // 2) for kind in ("qk", "vo")})
            for number in range(len(model.encoder.layers))
        ]
        return distance(encoder, compact(model, EncoderGates(half)), heard)

    assert halved(turn_heads(encoder, heard)) < 1e-6
    assert halved(encoder) > 1e-3


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:  # (H, w) -> (H w,)
    return (scores.argsort(1, descending=True).argsort(1) < count).float().flatten()


def test_a_compact_encoder_with_uneven_and_dead_heads_is_turned() -> None:
    encoder = random_encoder(tiny_config())
    dead = LayerGates(vo=torch.zeros(24))
    uneven = LayerGates(vo=torch.tensor([1.0] * 7 + [0.0] * 17), qk=(torch.arange(24) % 3 > 0).float())
    silent = LayerGates(qk=torch.zeros(24))
    smaller = compact(encoder, EncoderGates([silent, dead, uneven])).eval()
    turned = turn_heads(smaller, speech(smaller))
    assert difference(smaller, turned, speech(smaller, 4)[3]) < 1e-4
    compact(turned, cut_by_scores(turned.config, dimension_scores(turned, speech(turned)), 0.8))


def test_a_head_that_never_moves_is_left_finite() -> None:
    encoder = random_encoder(tiny_config()).eval()
    with torch.no_grad():
        attention = encoder.encoder.layers[0].self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[:6] = 0
        attention.k_proj.bias[:6] = 0
    turned = turn_heads(encoder, speech(encoder))
    assert all(parameter.isfinite().all() for parameter in turned.parameters())
    assert difference(encoder, turned, speech(encoder, 4)[3]) < 1e-4


def test_no_speech_is_refused(tiny) -> None:
    with pytest.raises(DataError, match="principal axes need speech"):
        turn_heads(tiny, [])
