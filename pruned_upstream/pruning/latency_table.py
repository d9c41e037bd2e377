"""Time as a cost: a table measured on the machine at hand, and what it predicts of any shape.

Time does not follow parameters. A head takes its time whatever few of its dimensions live, for attention pads all heads
of a layer to the widest (`model/attention.py`); a dimension of fc1 takes what a column of a matrix product takes. So
the table holds, for one utterance at batch 1,

    attention      by number of heads and by the width they are padded to, without its projections; heads of one
                   width apart from ragged ones, which have to be gathered
    projections    of q, k, v and the output, by the number of their rows
    feed_forward   by its dimensions
    convolutions   each by its input and output channels
    rest           everything else: norms, position convolution, projection of the features

Between entries it is interpolated. Of gates it expects the time of their expected widths.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..files import write_text
from ..model.attention import ALIGNMENT, SelfAttention, relative_position_bias
from ..model.config import EncoderConfig, Head, TransformerLayer
from ..model.encoder import Encoder, TransformerEncoderLayer
from ..parsing import read_json
from .cost import ExpectedWidths

SAMPLE_RATE = 16_000
REPEATS = 15
POINTS = 6  # of each axis


@dataclass(frozen=True)
class LatencyTable:
    """Seconds, measured; see the module's docstring.

    shape: of the dense encoder, as JSON.
    seconds: of the utterance.
    device, threads: where and how.
    heads, widths: axes of `ragged`, [heads][widths]; of `whole`, heads of the dense width, only the first.
    rows: axis of `projections`, all four together at so many rows each.
    dimensions: axis of `feed_forward`.
    scale: of all, so that the dense encoder takes what it takes as a whole, and not the sum of its parts by themselves.
    channels: axes of `convolutions` [convolution][input channels][output channels], for each convolution.
    """

    shape: str
    seconds: float
    device: str
    threads: int
    heads: list[int]
    widths: list[int]
    ragged: list[list[float]]
    whole: list[float]
    rows: list[int]
    projections: list[float]
    dimensions: list[int]
    feed_forward: list[float]
    channels: list[tuple[list[int], list[int]]]
    convolutions: list[list[list[float]]]
    rest: float
    scale: float = 1.0

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises ConfigError where the file is missing or no such table."""
        try:
            return cls(**read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no table of latencies ({error}); without it one is measured") from error


class Latency:
    """Seconds of one utterance, by a table of the same dense shape."""

    def __init__(self, table: LatencyTable) -> None:
        self.table = table

    def expected(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> Tensor:
        self._check(config)
        table, widths = self.table, ExpectedWidths(config, probabilities)
        heads = widths.heads.sum(1)  # (L,)
        if "vo" in probabilities:
            padded = torch.maximum(widths.qk, widths.vo).amax(1)
            attention = _between(table.heads, table.widths, table.ragged, heads, _next_multiple(padded))
        else:
            attention = _along(table.heads, table.whole, heads)
        rows = (widths.qk.sum(1) + widths.vo.sum(1)) / 2
        attention = attention + _along(table.rows, table.projections, rows)
        feed_forward = _along(table.dimensions, table.feed_forward, widths.ffn)
        total = (widths.attention * attention + widths.feed_forward * feed_forward).sum()
        total = total + self._front_end([config.input_channels * widths.one, *widths.channels]) + table.rest
        return table.scale * total

    def counted(self, config: EncoderConfig) -> float:
        self._check(config)
        total = self._front_end([config.input_channels, *(layer.channels for layer in config.conv)])
        for layer in config.layers:
            total = (
                total
                + self._attention(config, layer)
                + _along(self.table.dimensions, self.table.feed_forward, torch.tensor(float(layer.ffn)))
            )
        return self.table.scale * (float(total) + self.table.rest)

    def _attention(self, config: EncoderConfig, layer: TransformerLayer) -> Tensor:
        table = self.table
        if not layer.heads:
            return torch.zeros((), dtype=torch.double)
        heads = torch.tensor(float(len(layer.heads)), dtype=torch.double)
        own = [width for head in layer.heads for width in (head.qk, head.vo)]
        rows = torch.tensor((layer.qk + layer.vo) / 2, dtype=torch.double)
        projections = _along(table.rows, table.projections, rows)
        if set(own) == {config.head_dim}:
            return _along(table.heads, table.whole, heads) + projections
        padded = torch.tensor(float(-(-max(own) // ALIGNMENT) * ALIGNMENT), dtype=torch.double)
        return _between(table.heads, table.widths, table.ragged, heads, padded) + projections

    def _front_end(self, channels: Sequence[Any]) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for (inputs, outputs), seconds, i, o in zip(
            self.table.channels, self.table.convolutions, channels[:-1], channels[1:], strict=True
        ):
            total = total + _between(inputs, outputs, seconds, *map(_as_tensor, (i, o)))
        return total

    def _check(self, config: EncoderConfig) -> None:
        if config.densified().to_json() != self.table.shape:
            raise ConfigError("the table of latencies was measured on another shape; measure it on this teacher's")


def _as_tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.double)


def _next_multiple(width: Tensor) -> Tensor:
    """Rounded up as attention does, and passed through by the gradient."""
    return width + (torch.ceil(width / ALIGNMENT - 1e-9) * ALIGNMENT - width).detach()


def _along(axis: Sequence[int], seconds: Sequence[float], at: Tensor) -> Tensor:
    """Interpolation of a table at any places."""
    grid, values = (torch.tensor(list(x), dtype=torch.double, device=at.device) for x in (axis, seconds))
    at = at.double()
    right = torch.searchsorted(grid, at.detach().contiguous()).clamp(1, len(grid) - 1)
    share = (at - grid[right - 1]) / (grid[right] - grid[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


def _between(
    rows: Sequence[int], columns: Sequence[int], seconds: Sequence[Sequence[float]], row: Tensor, column: Tensor
) -> Tensor:
    """Interpolation of a table [rows][columns] at any places."""
    grid = torch.tensor(list(rows), dtype=torch.double, device=row.device)
    if len(grid) == 1:
        return _along(columns, seconds[0], column)
    along = torch.stack([_along(columns, line, column) for line in seconds])  # (rows, ...)
    row = row.double()
    right = torch.searchsorted(grid, row.detach().contiguous()).clamp(1, len(grid) - 1)
    share = (row - grid[right - 1]) / (grid[right] - grid[right - 1])
    low, high = (along.gather(0, place.unsqueeze(0)).squeeze(0) for place in (right - 1, right))
    return low + share * (high - low)


@torch.no_grad()
def measure(
    config: EncoderConfig, *, seconds: float = 10.0, device: str = "cpu", repeats: int = REPEATS
) -> LatencyTable:
    """Measure the table of an encoder's dense shape; weights are random, time does not depend on them.

    Each entry is the shortest of some passes, for what else a machine does can only add to it; and no entry is above
    one of more heads, rows or channels, which would be a sign of the same. On a CPU with one thread it is the time of
    the processor, not of the clock on the wall.
    """
    dense = config.densified()
    samples = round(seconds * SAMPLE_RATE)
    dense.require_frames(samples)
    clock = _Clock(device, repeats)
    probe = _Probe(dense, samples, clock)
    heads, widths = _axis(dense.num_heads), _axis(-(-dense.head_dim // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
    rows, dimensions = _axis(dense.embed_dim), _axis(dense.ffn_dim)
    (projections,) = _rising([[0.0, *(probe.projections(n) for n in rows[1:])]])

    def core(count: int, width: int, *, whole: bool) -> float:
        layer = _heads(count, min(width, dense.head_dim), ragged=not whole)
        spent = float(_along(rows, projections, torch.tensor((layer.qk + layer.vo) / 2)))
        return max(0.0, probe.attention(layer) - spent)

    ragged = [[0.0] * len(widths)]
    ragged += [[0.0, *(core(count, width, whole=False) for width in widths[1:])] for count in heads[1:]]
    channels, convolutions = probe.convolutions()
    table = LatencyTable(
        shape=dense.to_json(),
        seconds=seconds,
        device=device,
        threads=torch.get_num_threads(),
        heads=heads,
        widths=widths,
        ragged=_rising(ragged),
        whole=_rising([[0.0, *(core(count, dense.head_dim, whole=True) for count in heads[1:])]])[0],
        rows=rows,
        projections=projections,
        dimensions=dimensions,
        feed_forward=_rising([[0.0, *(probe.feed_forward(n) for n in dimensions[1:])]])[0],
        channels=channels,
        convolutions=convolutions,
        rest=probe.rest(sum(seconds[-1][-1] for seconds in convolutions)),
    )
    return replace(table, scale=probe.whole() / Latency(table).counted(dense))


def predicted_and_measured(encoder: Encoder, table: LatencyTable, *, repeats: int = REPEATS) -> tuple[float, float]:
    """Seconds of one utterance as the table predicts them, and as they are."""
    clock = _Clock(table.device, repeats)
    waveform = torch.randn(1, round(table.seconds * SAMPLE_RATE), device=table.device)
    encoder = encoder.to(table.device).eval()
    with torch.no_grad():
        return Latency(table).counted(encoder.config), clock.time(lambda: encoder(waveform))


class _Clock:
    """The shortest of some runs of a function."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device = device
        self.repeats = repeats
        one_thread = device == "cpu" and torch.get_num_threads() == 1
        self.now = time.process_time if one_thread else time.perf_counter

    def time(self, run: Callable[[], object]) -> float:
        taken = []
        for _ in range(self.repeats + 1):  # the first derives weights and warms up
            start = self.now()
            run()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            taken.append(self.now() - start)
        return min(taken[1:])


class _Probe:
    """Times parts of a dense shape on one utterance."""

    def __init__(self, dense: EncoderConfig, samples: int, clock: _Clock) -> None:
        self.dense = dense
        self.samples = samples
        self.clock = clock
        self.frames = dense.frames(samples)
        self.x = torch.randn(1, self.frames, dense.embed_dim, device=clock.device)

    def attention(self, layer: TransformerLayer) -> float:
        module = SelfAttention(self.dense, layer).to(self.clock.device).eval()
        bias = None
        if self.dense.relative_position is not None:
            relative = self.dense.relative_position
            table = torch.nn.Embedding(relative.buckets, self.dense.num_heads, device=self.clock.device)
            bias = relative_position_bias(table, self.frames, relative)
        return self.clock.time(lambda: module(self.x, bias))

    def projections(self, rows: int) -> float:
        into = [torch.nn.Linear(self.dense.embed_dim, rows, device=self.clock.device) for _ in range(3)]
        out = torch.nn.Linear(rows, self.dense.embed_dim, device=self.clock.device)

        def run() -> Tensor:
            _, _, value = (projection(self.x) for projection in into)
            return out(value)

        return self.clock.time(run)

    def feed_forward(self, dimensions: int) -> float:
        layer = TransformerLayer(attention=False, heads=(), feed_forward=True, ffn=dimensions)
        encoder = Encoder(replace(self.dense, layers=(layer,))).to(self.clock.device).eval()
        module: TransformerEncoderLayer = encoder.encoder.layers[0]
        return self.clock.time(lambda: self.x + module.fc2(torch.nn.functional.gelu(module.fc1(self.x))))

    def convolutions(self) -> tuple[list[tuple[list[int], list[int]]], list[list[list[float]]]]:
        """By input and output channels of each, between a fourth and all of them."""
        axes: list[tuple[list[int], list[int]]] = []
        found: list[list[list[float]]] = []
        waveform = torch.randn(1, self.samples, device=self.clock.device)
        for number, layer in enumerate(self.dense.conv):
            before = self.dense.conv[number - 1].dense_channels if number else 0
            inputs = _quarters(before) if number else [self.dense.input_channels]
            outputs = _quarters(layer.dense_channels)
            axes.append((inputs, outputs))
            found.append(_rising([[self._convolution(number, i, o, waveform) for o in outputs] for i in inputs]))
        return axes, found

    def _convolution(self, number: int, inputs: int, outputs: int, waveform: Tensor) -> float:
        conv = list(self.dense.conv)
        if number:
            conv[number - 1] = replace(conv[number - 1], channels=inputs)
        conv[number] = replace(conv[number], channels=outputs)
        if not self.dense.has_projection:
            conv[-1] = self.dense.conv[-1]
        encoder = Encoder(replace(self.dense, conv=tuple(conv), layers=self.dense.layers[:1]))
        extractor = encoder.to(self.clock.device).eval().feature_extractor
        seen: list[tuple[Any, ...]] = []
        block = extractor.conv_layers[number]
        hook = block.register_forward_pre_hook(lambda module, given: seen.append(given))
        extractor(waveform)
        hook.remove()
        x = seen[-1][0]
        time_major = x.transpose(1, 2).contiguous()
        on_cpu = self.clock.device == "cpu"
        return self.clock.time(lambda: block.time_major(time_major, None) if on_cpu else block(x, None))

    def whole(self) -> float:
        encoder = Encoder(self.dense).to(self.clock.device).eval()
        waveform = torch.randn(1, self.samples, device=self.clock.device)
        return self.clock.time(lambda: encoder(waveform))

    def rest(self, front_end: float) -> float:
        gone = TransformerLayer(attention=False, heads=(), feed_forward=False, ffn=0)
        bare = replace(self.dense, layers=(gone,) * self.dense.num_layers)
        encoder = Encoder(bare).to(self.clock.device).eval()
        waveform = torch.randn(1, self.samples, device=self.clock.device)
        return max(0.0, self.clock.time(lambda: encoder(waveform)) - front_end)


def _heads(count: int, width: int, *, ragged: bool) -> TransformerLayer:
    """So many heads of a width; ragged ones are a dimension short of it in the first, or in its keys where it is 1."""
    first = Head(0, width - 1 if ragged else width, width - 1 if ragged and width > 1 else width)
    heads = (first, *(Head(i, width, width) for i in range(1, count)))
    if ragged and count == 1:
        heads = (replace(first, qk=width),)
    return TransformerLayer(attention=True, heads=heads, feed_forward=False, ffn=0)


def _rising(table: list[list[float]]) -> list[list[float]]:
    """Each entry at most what any entry further down and to the right is."""
    return [
        [min(value for line in table[row:] for value in line[column:]) for column in range(len(table[row]))]
        for row in range(len(table))
    ]


def _axis(largest: int, multiple: int = 1) -> list[int]:
    """Evenly spaced from 0 to `largest`, in multiples."""
    step = largest / (POINTS - 1)
    return sorted({0, largest, *(round(step * i / multiple) * multiple for i in range(1, POINTS - 1))})


def _quarters(channels: int) -> list[int]:
    return sorted({max(1, round(channels * share / 4)) for share in range(1, 5)})
