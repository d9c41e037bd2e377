"""Self-attention whose heads may each have a different width, and WavLM's gated relative position bias.

Shapes: B utterances, T frames, d the model's width, h living heads, w the width the heads are padded to.
The parameters are exactly ragged: the rows of q/k/v_proj and the columns of out_proj lie head after head, and
the projections compute no more than that. Between them heads are padded with zeros to one width, so that one
attention call serves all: a zero in q and k adds nothing to a score, a zero in v comes out as a zero and is left
out again. (A loop over heads launches twice as many operations.)

The four projections are called as the modules they are, so that whatever is done to one of them (an adapter, a hook,
a mask, 8-bit weights) acts. One fused product for q, k and v was no faster (see benchmarks).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import EncoderConfig, RelativePosition, TransformerLayer
from .derived import captured, eager_on_cpu, is_plain
from .gating import LayerGates, gated_outputs
from .streaming import Memory

ALIGNMENT = 8  # attention kernels are faster where the padded width is a multiple of this
GATE_WIDTH = 8  # outputs of grep_linear: two gates of four summands each (unilm, wavlm/modules.py)


def position_buckets(distances: Tensor, relative: RelativePosition) -> Tensor:
    """Bucket of each signed distance (key position minus query position), as T5 and WavLM number them.

    Half of the buckets serve keys to the right. In each half the first half is exact, the rest is
    logarithmic up to `max_distance` (unilm, wavlm/modules.py `_relative_positions_bucket`).
    """
    half = relative.buckets // 2
    exact = half // 2
    size = distances.abs()
    large = torch.log(size.clamp(min=1).float() / exact) / math.log(relative.max_distance / exact) * (half - exact)
    large = (exact + large.long()).clamp(max=half - 1)
    return (distances > 0).long() * half + torch.where(size < exact, size, large)


class PositionBias(NamedTuple):
    """What is added to the scores for the distance from query to key, by dense head.

    Its rows for the queries, from the LAST frame to the first, are windows on 2T - 1 values, each one further on than
    the row before. So on a CPU they are not laid out: what multiplies them reads a few kilobytes instead of T * T
    numbers. A GPU would rather not turn queries round in every layer, and graphs would be tied to one length: there
    rows are laid out once, in the order of time.
    Where the queries are the last Q of T frames, there are as many rows, on Q + T - 1 values.

    values: (dense heads, Q + T - 1), from the key that is furthest to the left to that furthest to the right.
    rows: (dense heads, Q, T), query, key.
    backwards: queries run from the last to the first.
    """

    values: Tensor
    rows: Tensor
    backwards: bool

    def of(self, heads: Tensor) -> Tensor:
        """Rows (h, T, T) of these dense heads."""
        if self.backwards:
            return self.values.index_select(0, heads).unfold(1, self.rows.size(2), 1)
        return self.rows.index_select(0, heads)


def relative_position_bias(
    table: nn.Embedding, frames: int, relative: RelativePosition, queries: int | None = None
) -> PositionBias:
    """The bias of all distances between `frames` frames.

    Args:
        table: (buckets, dense heads), shared by all layers.
        queries: how many of the last frames attend; all by default.
    """
    queries = frames if queries is None else queries
    distances = torch.arange(1 - frames, queries, device=table.weight.device)
    values = table(position_buckets(distances, relative)).t()  # (heads, Q + T - 1)
    if captured():  # windows would tie a graph to one length
        frame = torch.arange(frames, device=values.device)
        return PositionBias(values, values[:, frame + (queries - 1 - frame[:queries]).unsqueeze(1)], backwards=False)
    windows = values.unfold(1, frames, 1)
    if windows_pay(values):
        return PositionBias(values, windows, backwards=True)
    return PositionBias(values, windows.flip(1), backwards=False)


def windows_pay(tensor: Tensor) -> bool:
    """Whether position biases are windows, and queries with them turned round."""
    return eager_on_cpu(tensor)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the heads that `layer` lists."""

    head_ids: Tensor  # (h,)
    padded_rows: Tensor  # (3hw,)
    living_columns: Tensor  # (vo,)
    zero: Tensor  # (1, 1, 1)

    def __init__(self, config: EncoderConfig, layer: TransformerLayer, *, dropout: float = 0.0) -> None:
        super().__init__()
        d = config.embed_dim
        self.dropout = dropout
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5  # of the dense head, whatever is left of it
        self.heads = layer.heads
        self.out_proj = nn.Linear(layer.vo, d) if layer.heads else BiasOnly(d)
        if not layer.heads:
            return
        self.q_proj, self.k_proj = _maybe_empty(d, layer.qk), _maybe_empty(d, layer.qk, bias=config.key_bias)
        self.v_proj = nn.Linear(d, layer.vo)
        self.gated_position = config.relative_position is not None and config.relative_position.gated
        if self.gated_position:
            self.grep_linear = nn.Linear(config.head_dim, GATE_WIDTH)
            self.grep_a = nn.Parameter(torch.ones(1, len(layer.heads), 1, 1))
        self.lay_out()

    def lay_out(self) -> None:
        """The indices by which heads of unequal widths are padded, and the numbers of the heads."""
        qk, vo = [head.qk for head in self.heads], [head.vo for head in self.heads]
        self.uniform = len({*qk, *vo}) == 1
        self.width = qk[0] if self.uniform else -(-max(qk + vo) // ALIGNMENT) * ALIGNMENT
        ids = [head.id for head in self.heads]
        self.all_heads = ids == list(range(self.num_heads))
        # all of these follow from the config: they move with the module but are never saved, so that no file brings
        # their values to a module built on the meta device
        self.register_buffer("head_ids", torch.tensor(ids, device="cpu"), persistent=False)
        zero = 2 * sum(qk) + sum(vo)  # the place after the last, where a zero is put
        places = [
            *_padded(qk, self.width, start=0, fill=zero),
            *_padded(qk, self.width, start=sum(qk), fill=zero),
            *_padded(vo, self.width, start=2 * sum(qk), fill=zero),
        ]
        self.register_buffer("padded_rows", torch.tensor(places, device="cpu"), persistent=False)
        columns = [head * self.width + i for head, own in enumerate(vo) for i in range(own)]
        self.register_buffer("living_columns", torch.tensor(columns, device="cpu"), persistent=False)
        self.register_buffer("zero", torch.zeros(1, 1, 1, device="cpu"), persistent=False)

    def forward(
        self,
        x: Tensor,
        position_bias: PositionBias | None = None,
        key_bias: Tensor | None = None,
        gates: LayerGates | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Args:
            x: (B, T, d), the sublayer's input: after the norm in pre-norm models.
            position_bias: of all dense heads.
            key_bias: (B, 1, 1, T) or, with queries in the order of `position_bias`, (B, 1, T, T): minus infinity at
                frames that are not attended to.
            gates: `qk` and `vo` multiply the projected queries and values.
            memory: of a streamed recording, the frames before these, which are attended to as well.

        Returns:
            (B, T, d)
        """
        if not self.heads:
            return self.out_proj(x)
        batch, frames, _ = x.shape
        qkv: Sequence[Tensor] = (
            gated_outputs(self.q_proj, x, None if gates is None else gates.qk),
            self.k_proj(x),
            gated_outputs(self.v_proj, x, None if gates is None else gates.vo),
        )  # (B, T, sum of the heads' own widths) each
        if not self.uniform:
            joined = torch.cat([*qkv, self.zero.to(qkv[0].dtype).expand(batch, frames, 1)], -1)
            qkv = joined.index_select(-1, self.padded_rows).chunk(3, -1)  # (B, T, hw) each
        query, key, value = (t.unflatten(-1, (-1, self.width)).transpose(1, 2) for t in qkv)  # (B, h, T, w) each
        if memory is not None:
            key, value = memory.extend(key, value)  # (1, h, frames of the past + T, w)
        backwards = position_bias is not None and position_bias.backwards
        if backwards:
            query = query.flip(2)  # last frame first, as the bias has them
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._score_bias(x, position_bias, key_bias, query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        if backwards:
            out = out.flip(2)
        out = out.transpose(1, 2).reshape(batch, frames, -1)  # (B, T, hw)
        if not self.uniform:
            out = out.index_select(-1, self.living_columns)  # (B, T, vo)
        return self.out_proj(out)

    def _score_bias(
        self, x: Tensor, position_bias: PositionBias | None, key_bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        """What is added to the scores before the softmax: gate * position bias, and the padding.

        Queries run as the position bias has them.
        """
        if position_bias is None:
            return None if key_bias is None else key_bias.to(dtype)
        bias = position_bias.rows if self.all_heads else position_bias.of(self.head_ids)  # (h, T, T)
        if self.gated_position:
            gate = self._position_gate(x)  # (B, h, T, 1)
            gate = gate.flip(2) if position_bias.backwards else gate
            return (gate * bias if key_bias is None else torch.addcmul(key_bias, gate, bias)).to(dtype)  # (B, h, T, T)
        return (bias.unsqueeze(0) if key_bias is None else bias + key_bias).to(dtype)

    def _position_gate(self, x: Tensor) -> Tensor:
        """WavLM's gate on the position bias, (B, h, T, 1).

        It reads, for head i, the slice of the sublayer's INPUT at the head's place in the dense layer, not the
        projected query: that is what the public code computes for dense models (unilm, wavlm/modules.py, the
        branch taken when q_head_dim == head_dim), so pruning q and k must not change it.
        """
        slices = x.unflatten(-1, (self.num_heads, self.head_dim))  # (B, T, H, d / H)
        if not self.all_heads:
            slices = slices[:, :, self.head_ids]
        if is_plain(self.grep_linear, nn.Linear) and self.grep_linear.bias is not None:
            # the four outputs of each gate are summed before the sigmoid, so their weights can be
            weight = self.grep_linear.weight.unflatten(0, (2, -1)).sum(1)  # (2, d / H)
            bias = self.grep_linear.bias.unflatten(0, (2, -1)).sum(1)  # (2,)
            sums = F.linear(slices, weight, bias)  # (B, T, h, 2)
        else:
            sums = self.grep_linear(slices).unflatten(-1, (2, -1)).sum(-1)
        update, reset = torch.sigmoid(sums).permute(3, 0, 2, 1).unsqueeze(-1)  # (B, h, T, 1)
        return torch.addcmul(2.0 - update, update * reset, self.grep_a)  # update * (reset * a - 1) + 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights as fairseq does: normal with a deviation of 0.02, biases 0."""
        if self.heads:
            projections: tuple[nn.Linear, ...] = (self.q_proj, self.k_proj, self.v_proj, cast(nn.Linear, self.out_proj))
            for projection in projections:
                nn.init.normal_(projection.weight, std=0.02)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)


class BiasOnly(nn.Module):
    """What is left of a linear map that has lost every input: its bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        """The bias in place of (B, T, d): (B, T, d)."""
        return self.bias.expand_as(x)


def _maybe_empty(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Heads that attend by their position alone have no query and key; torch warns of initialising nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inputs, outputs, bias=bias)


def _padded(widths: list[int], width: int, *, start: int, fill: int) -> list[int]:
    """For each head `width` row numbers: its own, counted from `start`, then `fill`."""
    places = []
    for own in widths:
        places += [*range(start, start + own), *[fill] * (width - own)]
        start += own
    return places
