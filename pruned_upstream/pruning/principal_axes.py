"""Heads turned to their principal axes: the same function, in which few dimensions hold most of what a head does.

Which basis a head computes in is an accident of its training. A query is only ever multiplied by keys, and a value only
ever read by the output matrix, so both spaces of a head may be turned at will,

    q -> A q,  k -> B k  with  A'B = 1          v -> C v,  W_o -> W_o C^-1

and the model stays what it was. Here they are turned so that cutting any number of dimensions loses the least. Scores
q'k are a sum over dimensions. The best sum of r terms, in mean square over frames drawn apart, comes from the
singular value decomposition of Q'K, where QQ' is the second moment of the queries and KK' the covariance of the keys:
what shifts all keys moves a whole row of scores alike, and the softmax does not see it. For values it comes from that
of W_o U, where UU' is the covariance of what the head hands to W_o; a mean is the bias's business (`repair.py`). Each
dimension then stands alone, and its singular value is its score (`scores.py`). Gates of dimensions may go on from
there.

Decomposing what activations make of a matrix, and not the matrix itself, is the idea of SVD-LLM (Wang et al., ICLR
2025). That a dimension of a head may be pruned at all is fine-grained attention head pruning (Wang et al., Interspeech
2023, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..model.attention import SelfAttention
from ..model.encoder import Encoder
from .watching import Products, Watch

RANGE = 1e-9  # of the largest variance of a head: what varies less is taken to vary so much


@torch.no_grad()
def turn_heads(encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Encoder:
    """The same encoder with every head turned to its principal axes, its dimensions in the order of their weight.

    Args:
        encoder: dense or compact; what is given stays as it is.
        batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them, on the encoder's device.

    Raises:
        DataError: there is no batch.
    """
    turned, watch = copy.deepcopy(encoder), Watch()
    living = [layer.self_attn for layer in turned.encoder.layers if layer.self_attn and layer.self_attn.heads]
    moments = [
        (
            watch.input(attention, Products(), through=attention.q_proj),
            watch.input(attention, Products(), through=attention.k_proj),
            watch.input(attention.out_proj, Products()),
        )
        for attention in living
    ]
    watch.hear(turned, batches, what="principal axes")
    for attention, (query, key, value) in zip(living, moments, strict=True):
        for rows in _rows([head.qk for head in attention.heads]):
            _turn_scores(attention, rows, query.second_moment()[rows, rows], key.covariance()[rows, rows])
        for rows in _rows([head.vo for head in attention.heads]):
            _turn_values(attention, rows, value.covariance()[rows, rows])
    return turned


def _turn_scores(attention: SelfAttention, rows: slice, queries: Tensor, keys: Tensor) -> None:
    """Of one head, whose second moment of queries and covariance of keys are given, (w, w) each."""
    (into_q, from_q), (into_k, from_k) = _root(queries), _root(keys)
    left, singular, right = torch.linalg.svd(into_q.t() @ into_k)
    scale = singular.sqrt().unsqueeze(1)  # shared by both sides
    _turn_rows(attention.q_proj, rows, scale * (left.t() @ from_q))
    _turn_rows(attention.k_proj, rows, scale * (right @ from_k))


def _turn_values(attention: SelfAttention, rows: slice, values: Tensor) -> None:
    """Of one head, the covariance (w, w) of whose output is given."""
    into, out_of = _root(values)
    weight = cast(nn.Linear, attention.out_proj).weight  # (d, all heads' w)
    left, singular, right = torch.linalg.svd(weight[:, rows].double() @ into, full_matrices=False)
    scale = singular.sqrt()
    _turn_rows(attention.v_proj, rows, scale.unsqueeze(1) * (right @ out_of))
    weight[:, rows] = (left * scale).to(weight.dtype)


def _turn_rows(projection: nn.Linear, rows: slice, turn: Tensor) -> None:
    for parameter in (projection.weight, projection.bias):
        if parameter is not None:
            parameter[rows] = (turn @ parameter[rows].double()).to(parameter.dtype)


def _root(moment: Tensor) -> tuple[Tensor, Tensor]:
    """R (n, n) with R R' the moment, and its inverse; of what never moves, the identity."""
    values, vectors = torch.linalg.eigh(moment)
    largest = values[-1].item()
    roots = values.clamp(min=RANGE * largest).sqrt() if largest > 0 else torch.ones_like(values)
    return vectors * roots, (vectors / roots).t()


def _rows(widths: list[int]) -> list[slice]:
    """Of each head, among the rows of all; heads without any are left out."""
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    return [slice(start, end) for start, end in pairwise(ends) if end > start]
