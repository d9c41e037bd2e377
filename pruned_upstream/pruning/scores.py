"""What each dimension is worth without any training: how much it moves what reads it, on some minutes of speech.

    feed-forward dimension  deviation of its activation times the norm of its column of fc2
    value/output dimension  deviation of what it brings to out_proj times the norm of its column there
    head                    the same of all its v/o dimensions together
    query/key dimension     root mean square of the query times that of the key: what it adds to a score
    channel                 deviation of its output times the norm of what reads it

It is the deviation from the mean that counts where a bias reads on, for a constant can be said by the bias, which the
repair after the cut refits. The family is that of Wanda (Sun et al., ICLR 2024: weight times norm of the activation).
With these scores a student is cut at once (`cut_by_scores`), as the baseline that training must beat, or gates start
where the scores put them (`warm_start_`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import DataError
from ..model.config import EncoderConfig
from ..model.encoder import Encoder, TransformerEncoderLayer
from ..model.frontend import ConvBlock
from ..model.gating import EncoderGates
from .compaction import compact_config, evaluating, full_precision
from .cost import Cost
from .gates import CONV, Gates, GateSettings, conv_kind, encoder_gates, gate_shapes, living_places
from .repair import frames_that_count
from .sparsity import counted_sparsity

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
    watch = _Watch()
    layers = [_watch_layer(watch, layer) for layer in encoder.encoder.layers]
    channels = [_watch_channels(watch, encoder, i) for i in range(len(config.conv)) if conv_kind(i) in kinds]
    device = next(encoder.parameters()).device.type
    with watch, evaluating(encoder), full_precision(), torch.autocast(device, enabled=False):
        for waveforms, lengths in batches:
            watch.begin(None if lengths is None else encoder.padding_mask(lengths, waveforms.size(1)))
            encoder(waveforms, lengths)
    if watch.empty:
        raise DataError("scores need speech to be taken on, and there was none")
    living = living_places(config)
    scores = {
        kind: _placed([layer[kind]() for layer in layers if kind in layer], living[kind])
        for kind in ("qk", "vo", "ffn")
    }
    scores["head"] = scores["vo"].square().sum(-1).sqrt()
    scores |= {conv_kind(i): _placed([score()], living[conv_kind(i)]) for i, score in enumerate(channels)}
    return {kind: score for kind, score in scores.items() if kind in kinds}


Score = Callable[[], Tensor]  # gives what has been gathered, once it has been


def _watch_layer(watch: _Watch, layer: TransformerEncoderLayer) -> dict[str, Score]:
    found: dict[str, Score] = {}
    attention = layer.self_attn
    if attention is not None and attention.heads:
        query = watch.input(attention, attention.q_proj)
        key = watch.input(attention, attention.k_proj)
        value = watch.input(attention.out_proj)
        found["qk"] = lambda: query.root_mean_square() * key.root_mean_square()
        found["vo"] = lambda: value.deviation() * _column_norms(attention.out_proj)
    reader = layer.fc2
    if layer.fc1 is not None and reader is not None:
        inner = watch.input(reader)
        found["ffn"] = lambda: inner.deviation() * _column_norms(reader)
    return found


def _watch_channels(watch: _Watch, encoder: Encoder, number: int) -> Score:
    blocks = encoder.feature_extractor.conv_layers
    is_last = number == len(blocks) - 1
    # without a projection there are no gates on the last one's channels
    reader = cast(nn.Linear, encoder.post_extract_proj) if is_last else blocks[number + 1].convolution
    output = watch.input(reader if is_last else blocks[number + 1])
    return lambda: output.deviation() * _column_norms(reader)


class _Moments:
    """Sums over valid frames of a tensor's values and of their squares, by dimension, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.square = torch.zeros((), dtype=torch.double)

    def add(self, x: Tensor) -> None:  # (N, n)
        x = x.double()
        self.count += len(x)
        self.sum = self.sum + x.sum(0)
        self.square = self.square + x.square().sum(0)

    def root_mean_square(self) -> Tensor:
        return (self.square / self.count).sqrt()

    def deviation(self) -> Tensor:
        return (self.square / self.count - (self.sum / self.count).square()).clamp(min=0.0).sqrt()


class _Watch:
    """Moments of what modules are given, while the `with` lasts."""

    def __init__(self) -> None:
        self.empty = True
        self._padding_mask: Tensor | None = None
        self._wanted: list[tuple[nn.Module, Callable[..., None]]] = []
        self._hooks: list[RemovableHandle] = []

    def begin(self, padding_mask: Tensor | None) -> None:
        """A batch comes, with this mask (B, T)."""
        self.empty, self._padding_mask = False, padding_mask

    def input(self, module: nn.Module, through: nn.Linear | None = None) -> _Moments:
        """Of a module's first input, or of what `through` makes of it; (B, T, n), or channels first, (B, n, T')."""
        moments = _Moments()

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0] if through is None else through(inputs[0])
            if isinstance(module, ConvBlock):  # at another frame rate, of which no mask is known
                x = x.transpose(1, 2).flatten(0, 1)
            else:
                mask = self._padding_mask
                x = x.flatten(0, 1) if mask is None else x[frames_that_count(mask, mask, x)]
            moments.add(x)

        self._wanted.append((module, add))
        return moments

    def __enter__(self) -> _Watch:
        self._hooks = [module.register_forward_pre_hook(add) for module, add in self._wanted]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()


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
