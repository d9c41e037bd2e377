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
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import ConfigError
from ..files import write_text
from ..model.attention import ALIGNMENT, SelfAttention, relative_position_bias
from ..model.config import SAMPLE_RATE, EncoderConfig, Head, TransformerLayer
from ..model.encoder import Encoder
from ..parsing import MALFORMED, read_json
from .cost import ExpectedWidths

REPEATS = 15
POINTS = 6  # of each axis

Axes = tuple[list[int], list[int]]  # of input and of output channels


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
    channels: list[Axes]
    convolutions: list[list[list[float]]]
    rest: float
    scale: float = 1.0

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises ConfigError where the file is missing or no such table."""
        try:
            table = cls(**read_json(path))
            Latency(table).counted(EncoderConfig.from_json(table.shape))  # all of its entries are there
            return table
        except (OSError, ConfigError, *MALFORMED) as error:
            raise ConfigError(f"{path} is no table of latencies ({error}); without it one is measured") from error


class Latency:
    """Seconds of one utterance, by a table of the same dense shape."""

    def __init__(self, table: LatencyTable) -> None:
        self.table = table

    def expected(self, config: EncoderConfig, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Expected seconds of one utterance, a differentiable scalar."""
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
        """Seconds of one utterance for a shape, from the table."""
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

    All entries are timed in turn, round after round, the dense encoder among them, so that a busy minute hits all
    alike and no part finds its weights still in the cache. Each is the shortest of its runs, for what else a machine
    does can only add to it; and none is above one of more heads, rows or channels, which would be a sign of the same.
    On a CPU with one thread it is the time of the processor, not of the clock on the wall.
    """
    dense = config.densified()
    samples = round(seconds * SAMPLE_RATE)
    dense.require_frames(samples)
    probe = _Probe(dense, samples, device)
    heads, widths = _axis(dense.num_heads), _axis(-(-dense.head_dim // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
    rows, dimensions = _axis(dense.embed_dim), _axis(dense.ffn_dim)
    channels, blocks = probe.convolutions()
    shapes = _attention_shapes(dense, heads, widths)
    rounds = _in_turn(
        {
            "dense": probe.whole(dense),
            "bare": probe.bare(),
            **{("projections", n): probe.projections(n) for n in rows[1:]},
            **{("feed_forward", n): probe.feed_forward(n) for n in dimensions[1:]},
            **{("attention", *key): probe.attention(layer) for key, layer in shapes.items()},
            **{("convolution", *key): run for key, run in blocks.items()},
        },
        device,
        repeats,
    )
    taken = {name: min(seconds) for name, seconds in rounds.items()}
    (projections,) = _rising([[0.0, *(taken["projections", n] for n in rows[1:])]])

    def core(*key: Any) -> float:
        layer = shapes[key]
        spent = float(_along(rows, projections, torch.tensor((layer.qk + layer.vo) / 2)))
        return max(0.0, taken["attention", *key] - spent)

    convolutions = [
        _rising([[taken["convolution", number, i, o] for o in outputs] for i in inputs])
        for number, (inputs, outputs) in enumerate(channels)
    ]
    table = LatencyTable(
        shape=dense.to_json(),
        seconds=seconds,
        device=device,
        threads=torch.get_num_threads(),
        heads=heads,
        widths=widths,
        ragged=_rising([[0.0] * len(widths), *([0.0, *(core(n, w) for w in widths[1:])] for n in heads[1:])]),
        whole=_rising([[0.0, *(core(n, "whole") for n in heads[1:])]])[0],
        rows=rows,
        projections=projections,
        dimensions=dimensions,
        feed_forward=_rising([[0.0, *(taken["feed_forward", n] for n in dimensions[1:])]])[0],
        channels=channels,
        convolutions=convolutions,
        rest=max(0.0, taken["bare"] - sum(times[-1][-1] for times in convolutions)),
    )
    return replace(table, scale=taken["dense"] / Latency(table).counted(dense))


def _attention_shapes(dense: EncoderConfig, heads: Sequence[int], widths: Sequence[int]) -> dict[tuple[Any, ...], Any]:
    """(heads, width) -> an attention sublayer of ragged heads, and (heads, "whole") -> one of whole heads."""
    shapes: dict[tuple[Any, ...], Any] = {
        (n, w): _heads(n, min(w, dense.head_dim), ragged=True) for n in heads[1:] for w in widths[1:]
    }
    return shapes | {(n, "whole"): _heads(n, dense.head_dim, ragged=False) for n in heads[1:]}


@torch.no_grad()
def predicted_and_measured(
    encoders: Sequence[Encoder], table: LatencyTable, *, repeats: int = REPEATS
) -> list[tuple[float, float]]:
    """Seconds of one utterance, as the table predicts them and as they are, of each encoder.

    They are timed in turn with the dense encoder, and a measured time is the median ratio to the dense encoder's in the
    same round, times what that takes in the table: a machine that is slower than when the table was made is slower for
    both.
    """
    dense = EncoderConfig.from_json(table.shape)
    waveform = torch.randn(1, round(table.seconds * SAMPLE_RATE), device=table.device)
    runs: dict[Any, Callable[[], object]] = {}
    for number, encoder in enumerate([Encoder(dense), *encoders]):
        runs[number] = partial(encoder.to(table.device).eval(), waveform)
    whole, *measured = _in_turn(runs, table.device, repeats).values()
    seconds = Latency(table).counted(dense)
    return [
        (
            Latency(table).counted(encoder.config),
            seconds * statistics.median(ours / theirs for ours, theirs in zip(own, whole, strict=True)),
        )
        for encoder, own in zip(encoders, measured, strict=True)
    ]


def _in_turn(runs: Mapping[Any, Callable[[], object]], device: str, repeats: int) -> dict[Any, list[float]]:
    """Seconds of each function in each of the rounds in which all run, one after another."""
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = now()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            if number:  # the first round derives weights and warms up
                taken[name].append(now() - start)
    return taken


class _Probe:
    """Parts of a dense shape as functions that compute them on one utterance."""

    def __init__(self, dense: EncoderConfig, samples: int, device: str) -> None:
        self.dense = dense
        self.samples = samples
        self.device = device
        self.frames = dense.frames(samples)
        self.x = torch.randn(1, self.frames, dense.embed_dim, device=device)
        self.waveform = torch.randn(1, samples, device=device)
        self.bias = None
        if dense.relative_position is not None:
            table = torch.nn.Embedding(dense.relative_position.buckets, dense.num_heads, device=device)
            self.bias = relative_position_bias(table, self.frames, dense.relative_position)

    def attention(self, layer: TransformerLayer) -> Callable[[], object]:
        return partial(SelfAttention(self.dense, layer).to(self.device).eval(), self.x, self.bias)

    def projections(self, rows: int) -> Callable[[], Tensor]:
        into = [torch.nn.Linear(self.dense.embed_dim, rows, device=self.device) for _ in range(3)]
        out = torch.nn.Linear(rows, self.dense.embed_dim, device=self.device)

        def run() -> Tensor:
            _, _, value = (projection(self.x) for projection in into)
            return out(value)

        return run

    def feed_forward(self, dimensions: int) -> Callable[[], Tensor]:
        layer = TransformerLayer(attention=False, heads=(), feed_forward=True, ffn=dimensions)
        encoder = Encoder(replace(self.dense, layers=(layer,))).to(self.device).eval()
        module = encoder.encoder.layers[0]
        fc1, fc2 = cast(torch.nn.Linear, module.fc1), cast(torch.nn.Linear, module.fc2)
        return lambda: self.x + fc2(torch.nn.functional.gelu(fc1(self.x)))

    def convolutions(self) -> tuple[list[Axes], dict[tuple[int, int, int], Callable[[], Tensor]]]:
        """Axes of each, input and output channels between a fourth and all of them; and each at all its places."""
        axes: list[Axes] = []
        blocks = {}
        for number, layer in enumerate(self.dense.conv):
            before = self.dense.conv[number - 1].dense_channels if number else 0
            axes.append((_quarters(before) if number else [self.dense.input_channels], _quarters(layer.dense_channels)))
            for inputs, outputs in product(*axes[-1]):
                blocks[number, inputs, outputs] = self._convolution(number, inputs, outputs)
        return axes, blocks

    def _convolution(self, number: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
        conv = list(self.dense.conv)
        if number:
            conv[number - 1] = replace(conv[number - 1], channels=inputs)
        conv[number] = replace(conv[number], channels=outputs)
        if not self.dense.has_projection:
            conv[-1] = self.dense.conv[-1]
        encoder = Encoder(replace(self.dense, conv=tuple(conv), layers=self.dense.layers[:1]))
        extractor = encoder.to(self.device).eval().feature_extractor
        seen: list[tuple[Any, ...]] = []
        block = extractor.conv_layers[number]
        hook = block.register_forward_pre_hook(lambda module, given: seen.append(given))
        extractor(self.waveform)
        hook.remove()
        x = seen[-1][0]
        if self.device == "cpu":
            return partial(block.time_major, x.transpose(1, 2).contiguous(), None)
        return partial(block, x, None)

    def whole(self, config: EncoderConfig) -> Callable[[], object]:
        return partial(Encoder(config).to(self.device).eval(), self.waveform)

    def bare(self) -> Callable[[], object]:
        """The encoder without sublayers."""
        gone = TransformerLayer(attention=False, heads=(), feed_forward=False, ffn=0)
        return self.whole(replace(self.dense, layers=(gone,) * self.dense.num_layers))


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
    """Below all of them one less than a quarter, a half and so on: what a cut leaves is seldom a multiple of what
    vector instructions take, and 47 channels take longer than 48."""
    return sorted({channels, *(max(1, round(channels * share / 4) - 1) for share in range(1, 4))})
