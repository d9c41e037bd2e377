"""What each dimension is worth without any training: how much it moves what reads it, on some minutes of speech.

    feed-forward dimension  deviation of its activation times the norm of its column of fc2
    value/output dimension  deviation of what it brings to out_proj times the norm of its column there
    head                    the same of all its v/o dimensions together
    query/key dimension     root mean square of the query times deviation of the key: what it adds to a score, less what
                            it adds to all of a row alike, which the softmax does not see
    channel                 deviation of its output times the norm of what reads it

It is the deviation from the mean that counts where a bias reads on, for a constant can be said by the bias, which the
repair after the cut refits. Of heads that were turned to their principal axes (`principal_axes.py`) the scores are the
singular values. The family is that of Wanda (Sun et al., ICLR 2024: weight times norm of the activation). With these
scores a student is cut at once (`cut_by_scores`), as the baseline that training must beat, or gates start where the
scores put them (`warm_start_`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..model.config import EncoderConfig
from ..model.encoder import Encoder, TransformerEncoderLayer
from ..model.gating import EncoderGates
from .compaction import compact_config
from .cost import Cost
from .gates import CONV, Gates, GateSettings, conv_kind, encoder_gates, gate_shapes, living_places
from .sparsity import counted_sparsity
from .watching import Moments, Watch

HALVINGS = 24  # of the share that stays, on the way to a size


@torch.no_grad()
def dimension_scores(
    encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]], settings: GateSettings = GateSettings()
) -> dict[str, Tensor]:
    """The score of every dimension, stacked as `gates.py` says; zero where an encoder has lost the row before.

    Args:
        batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them, on the encoder's device.
        settings: which kinds of gates there are. Those of whole sublayers get no score.

    Raises:
        DataError: there is no batch.
    """
    config, kinds = encoder.config, gate_shapes(encoder.config, settings)
    watch = Watch()
    layers = [_watch_layer(watch, layer) for layer in encoder.encoder.layers]
    channels = [_watch_channels(watch, encoder, i) for i in range(len(config.conv)) if conv_kind(i) in kinds]
    watch.hear(encoder, batches, what="scores")
    living = living_places(config)
    scores = {
        kind: _placed([layer[kind]() for layer in layers if kind in layer], living[kind])
        for kind in ("qk", "vo", "ffn")
    }
    scores["head"] = scores["vo"].square().sum(-1).sqrt()
    scores |= {conv_kind(i): _placed([score()], living[conv_kind(i)]) for i, score in enumerate(channels)}
    return {kind: score for kind, score in scores.items() if kind in kinds}


Score = Callable[[], Tensor]  # gives what has been gathered, once it has been


def _watch_layer(watch: Watch, layer: TransformerEncoderLayer) -> dict[str, Score]:
    found: dict[str, Score] = {}
    attention = layer.self_attn
    if attention is not None and attention.heads:
        query = watch.input(attention, Moments(), through=attention.q_proj)
        key = watch.input(attention, Moments(), through=attention.k_proj)
        value = watch.input(attention.out_proj, Moments())
        found["qk"] = lambda: query.root_mean_square() * key.deviation()
        found["vo"] = lambda: value.deviation() * _column_norms(attention.out_proj)
    reader = layer.fc2
    if layer.fc1 is not None and reader is not None:
        inner = watch.input(reader, Moments())
        found["ffn"] = lambda: inner.deviation() * _column_norms(reader)
    return found


def _watch_channels(watch: Watch, encoder: Encoder, number: int) -> Score:
    blocks = encoder.feature_extractor.conv_layers
    is_last = number == len(blocks) - 1
    # without a projection there are no gates on the last one's channels
    reader = cast(nn.Linear, encoder.post_extract_proj) if is_last else blocks[number + 1].convolution
    output = watch.input(reader if is_last else blocks[number + 1], Moments())
    return lambda: output.deviation() * _column_norms(reader)


def _column_norms(reader: nn.Module) -> Tensor:
    """(n,): norm of all weights that read input n, of a linear layer or a convolution."""
    weight = cast(Tensor, reader.weight).double()  # (out, n) or (out, n, k)
    return torch.linalg.vector_norm(weight.transpose(0, 1).flatten(1), dim=1)


def _placed(rows: Sequence[Tensor], living: Tensor) -> Tensor:
    """Scores of the living rows, layer after layer, at their places among the stacked gates."""
    placed = torch.zeros(living.shape, dtype=torch.double)
    return placed.masked_scatter_(living, torch.cat([row.cpu() for row in rows])) if rows else placed


def cut_by_scores(
    config: EncoderConfig, scores: Mapping[str, Tensor], target: float, cost: Cost | str = "transformer"
) -> EncoderGates:
    """Ones for the best and zeros for the rest of every kind in every layer, the same share of each, so that the
    counted sparsity is as near to `target` as whole rows allow.

    No sublayer is closed as a whole. Kinds and layers round their share in turn, so that the size changes by one row at
    a time.
    """
    dense, living, ranks = config.densified(), living_places(config), score_ranks(scores)
    groups = sum(len(rank) for rank in ranks.values())
    turns = ((torch.arange(groups) + 0.5) / groups).split([len(rank) for rank in ranks.values()])

    def gates(share: float, of_heads: float | None = None) -> EncoderGates:
        stacked = {}
        for (kind, rank), turn in zip(ranks.items(), turns, strict=True):
            least = 1 if kind.startswith(CONV) else 0
            stays = of_heads if kind == "head" and of_heads is not None else share
            count = (stays * rank.size(1) + turn.unsqueeze(1).double()).floor().clamp(min=least)  # (layers, 1)
            stacked[kind] = ((rank < count).view(living[kind].shape) & living[kind]).float()
        return encoder_gates(config, stacked)

    def nearest(of_heads: float | None = None) -> float:
        def miss(share: float) -> float:
            return counted_sparsity(dense, compact_config(config, gates(share, of_heads)), cost) - target

        low, high = 0.0, 1.0  # least and most stays
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if miss(middle) > 0 else (low, middle)
        return min(low, high, key=lambda share: abs(miss(share)))

    share = of_heads = nearest()
    if "head" in ranks:  # a head is many rows; those of the other kinds make up for its rounding
        share = nearest(of_heads)
    return gates(share, of_heads)


def score_ranks(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Places by score within a kind and a layer, from 0 for the best: (L, n) of each kind, (1, C) of channels."""
    groups = {kind: s.view(1, -1) if kind.startswith(CONV) else s.flatten(1) for kind, s in scores.items()}
    return {kind: s.argsort(dim=1, descending=True, stable=True).argsort(dim=1) for kind, s in groups.items()}


@torch.no_grad()
def warm_start_(gates: Gates, scores: Mapping[str, Tensor], spread: float) -> None:
    """Start the gates apart: within a kind and a layer the best `spread` above where all would start, the worst as far
    below, the others evenly between."""
    for kind, rank in score_ranks(scores).items():
        log_alpha = gates.log_alpha[kind]
        height = 1 - 2 * rank / max(1, rank.size(1) - 1)  # 1 for the best to -1 for the worst
        log_alpha += spread * height.view(log_alpha.shape).to(log_alpha)
