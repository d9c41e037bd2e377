"""Models for other runtimes: ONNX, compared with torch at every export, and int8 weights.

What such a file holds, and how it is run, is in `model/onnx_file.py`.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import PrunedUpstreamError
from .files import atomic_write
from .model.config import SAMPLE_RATE
from .model.encoder import Encoder
from .model.gating import EncoderGates, LayerGates
from .model.header import is_onnx
from .model.onnx_file import OnnxEncoder, OnnxStream, require_packages
from .model.streaming import carried_from, carried_to, nothing_heard, samples_of_chunk
from .pruning.compaction import compact

TOLERANCE = 1e-4  # of the largest magnitude: another runtime adds in another order
EVERYTHING = 1 << 40  # elements: fold constants of any size
TRACES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # torch's names of them


@dataclass(frozen=True)
class OnnxReport:
    """A written ONNX file, and how far onnxruntime's hidden states are from torch's.

    Attributes:
        largest: largest difference over largest magnitude, of the worst hidden state.
        relative: root of the mean squared difference over that of the values, for each hidden state.
    """

    path: Path
    bytes: int
    largest: float
    relative: tuple[float, ...]


class RawWaveforms(nn.Module):
    """What the graph computes: an encoder that normalises its waveforms itself, with a flat tuple of outputs."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Waveforms (B, S) of `lengths` (B,) samples to L + 1 hidden states (B, T, d), and the frames of each."""
        if self.encoder.config.normalizes_whole:
            waveforms = _normalised(waveforms, lengths)
        output = self.encoder(waveforms, lengths)
        return *output.hidden_states, output.padding_mask


class LiveChunk(nn.Module):
    """What the graph of one chunk computes: hidden states, and what is carried to the next, as flat tuples."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.state = nothing_heard(encoder)

    def forward(self, samples: Tensor, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Samples (P,) under a chunk of which `frames` (1,) frames are the recording's, and what was carried here."""
        config, named = self.encoder.config, dict(zip(self.state, state, strict=True))
        carried = carried_from(config, named)
        output = self.encoder.hear(samples, config.require_streaming().chunk, carried, frames)
        after = carried_to(config, carried, named["heard"])
        return *output.hidden_states, *(after[name] for name in self.state)


def _normalised(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance of each utterance's own samples, as `Encoder.prepare` normalises one at a time."""
    count = lengths.unsqueeze(1).to(waveforms.dtype)
    valid = torch.arange(waveforms.size(1)) < lengths.unsqueeze(1)  # (B, S)
    centred = (waveforms - waveforms.mul(valid).sum(1, keepdim=True) / count) * valid
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)  # the epsilon of F.layer_norm


def export_onnx(
    encoder: Encoder,
    path: str | Path,
    *,
    int8: bool = False,
    live: bool = False,
    provenance: Mapping[str, str] | None = None,
) -> OnnxReport:
    """Write `encoder` as ONNX, any batch and any length, once onnxruntime has been seen to compute the same.

    Args:
        live: of a streaming model, one chunk of live audio, with what is carried from chunk to chunk as inputs and
            outputs (`OnnxStream`).
        int8: matrix products with 8-bit weights, and inputs quantised as they come (dynamic quantisation);
            convolutions stay in single precision. What that costs is reported, not refused.

    Raises:
        PrunedUpstreamError: `path` does not end in .onnx; onnx, onnxruntime or onnxscript is missing; the conversion
            fails; or, without int8, the difference is above `TOLERANCE`. Nothing is written then.
        ConfigError: `live` of a model that does not stream.
    """
    if not is_onnx(Path(path)):
        raise PrunedUpstreamError(f"{path} does not end in .onnx, by which such a file is known; give it another name")
    require_packages("onnx", "onnxruntime", "onnxscript")
    encoder = encoder.to("cpu").eval()
    with atomic_write(path) as temporary:
        graph = _live(encoder) if live else _whole(encoder)
        with _without_foreign_warnings():
            _convert(encoder, graph, temporary, fold=int8, provenance=provenance or {})
            if int8:
                _quantise(temporary)
        largest, relative = (_compared_live if live else _compared)(encoder, temporary)
        if not int8 and not largest <= TOLERANCE:
            raise PrunedUpstreamError(
                f"onnxruntime's hidden states differ from torch's by {largest:.2g} of their largest magnitude, where "
                f"{TOLERANCE:g} is allowed; {path} was not written"
            )
        size = os.path.getsize(temporary)
    return OnnxReport(Path(path), size, largest, relative)


def drop_narrow_heads(encoder: Encoder, width: int) -> Encoder:
    """The encoder without the heads that have at most `width` value/output dimensions.

    The time of attention goes with the number of heads; a head of a few dimensions costs as much as a wide one and
    gives little. `change_of_hidden_states` says what it gave.
    """
    layers = []
    for layer in encoder.config.layers:
        keep = [torch.full((head.vo,), float(head.vo > width)) for head in layer.heads]
        layers.append(LayerGates(vo=torch.cat(keep)) if keep else LayerGates())
    return compact(encoder.to("cpu"), EncoderGates(layers))


@torch.no_grad()
def change_of_hidden_states(reference: Encoder, changed: Encoder, wavs: Sequence[Tensor]) -> tuple[float, ...]:
    """Root of the mean squared difference over that of the values, for each hidden state, on valid frames.

    Args:
        wavs: waveforms (samples,) at 16 kHz.
    """
    before, after = reference.extract(wavs), changed.extract(wavs)
    valid = ... if before.padding_mask is None else ~before.padding_mask
    return tuple(
        _relative(ours[valid], theirs[valid])
        for ours, theirs in zip(after.hidden_states, before.hidden_states, strict=True)
    )


def noise(*seconds: float) -> list[Tensor]:
    """Deterministic waveforms for comparisons where no recording is at hand; louder where the frequency is low."""
    generator = torch.Generator().manual_seed(0)
    wavs = [torch.randn(round(s * SAMPLE_RATE), generator=generator).cumsum(0) for s in seconds]
    return [0.1 * (wav - wav.mean()) / wav.std() for wav in wavs]


@dataclass(frozen=True)
class Graph:
    """What is exported, with an example of its inputs, which it does not depend on."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: list[str]
    outputs: list[str]  # behind the hidden states
    dynamic: Any  # axes of any length, as torch.export names them; None: all are as in the example


def _whole(encoder: Encoder) -> Graph:
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    length = 10 * encoder.config.receptive_field  # more than one chunk, for of one torch makes a constant
    if encoder.config.streaming is not None:
        length += 3 * samples_of_chunk(encoder.config, encoder.config.streaming)[0]
    example = torch.zeros(2, length), torch.tensor([length, length // 2])
    axes = {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}
    return Graph(RawWaveforms(encoder), example, ["waveforms", "lengths"], ["padding_mask"], axes)


def _live(encoder: Encoder) -> Graph:
    module = LiveChunk(encoder)
    _, width = samples_of_chunk(encoder.config, encoder.config.require_streaming())
    example = torch.zeros(width), torch.tensor([1]), *module.state.values()
    inputs = ["samples", "frames", *(f"in.{name}" for name in module.state)]
    return Graph(module, example, inputs, [f"out.{name}" for name in module.state], None)


@contextmanager
def _without_foreign_warnings() -> Iterator[None]:
    """Torch's exporter and onnxruntime's quantiser speak of packages and steps that no model here needs.

    What they write is compared with torch afterwards; errors are heard as ever.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", None)]  # the quantiser speaks to the root
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@torch.no_grad()
def _convert(encoder: Encoder, graph: Graph, path: Path, *, fold: bool, provenance: Mapping[str, str]) -> None:
    """Write the graph.

    Args:
        fold: compute the padded weights now. The file holds zeros then; without, it holds the exactly ragged weights
            and onnxruntime pads them when it opens the file.
    """
    import onnxscript.optimizer

    states = [f"hidden_state_{i}" for i in range(encoder.config.num_layers + 1)]
    try:
        program: Any = torch.onnx.export(
            graph.module.eval(),
            graph.example,
            input_names=graph.inputs,
            output_names=[*states, *graph.outputs],
            dynamic_shapes=graph.dynamic,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise PrunedUpstreamError(
            f"torch {torch.__version__} could not turn the model into ONNX ({reason}); use another version of torch"
        ) from error
    limits: dict[str, Any] = {"input_size_limit": EVERYTHING, "output_size_limit": EVERYTHING} if fold else {}
    onnxscript.optimizer.optimize(program.model, **limits)
    _remove_traces(program.model)
    program.model.metadata_props["config"] = encoder.config.to_json()
    program.model.metadata_props["provenance"] = json.dumps(dict(provenance), sort_keys=True)
    program.save(path, external_data=False)


def _remove_traces(model: Any) -> None:
    """Torch's exporter notes for each node which lines of which files it comes from: most of a small model's file, and
    places on this machine, which nobody means to publish."""
    from onnxscript.ir import traversal

    for graph in (model.graph, *model.functions.values()):
        for node in traversal.RecursiveGraphIterator(graph):
            for key in TRACES:
                node.metadata_props.pop(key, None)


def _quantise(path: Path) -> None:
    """Weights as unsigned numbers with a zero of their own for each output.

    Products with signed ones saturate on processors without VNNI, which would answer otherwise than those that have it
    (onnxruntime, docs/performance/model-optimizations/quantization.md, on U8S8).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, path, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8, per_channel=True)


@torch.no_grad()
def _compared(encoder: Encoder, path: Path) -> tuple[float, tuple[float, ...]]:
    """Largest and relative differences of onnxruntime from torch, over batches that differ in size and lengths."""
    deployed = OnnxEncoder(path)
    largest = 0.0
    relative: list[tuple[float, ...]] = []
    for seconds in ((1.0,), (1.5, 0.6, 1.1)):
        wavs = noise(*seconds)
        expected = encoder(*encoder.prepare(wavs))
        states, mask = deployed.extract(wavs)
        if mask is None or expected.padding_mask is None or not torch.equal(mask, expected.padding_mask):
            raise PrunedUpstreamError("onnxruntime's padding mask is not torch's; the file was not written")
        valid = ~expected.padding_mask
        pairs = [(ours[valid], theirs[valid]) for ours, theirs in zip(states, expected.hidden_states, strict=True)]
        largest = max(largest, *(_largest(a, b) for a, b in pairs))
        relative.append(tuple(_relative(a, b) for a, b in pairs))
    return largest, tuple(max(of_state) for of_state in zip(*relative, strict=True))


@torch.no_grad()
def _compared_live(encoder: Encoder, path: Path) -> tuple[float, tuple[float, ...]]:
    """As `_compared`, over the chunks of a stream that outlasts the history and ends within a chunk."""
    config, streaming = encoder.config, encoder.config.require_streaming()
    seconds = (streaming.history + 2.5 * streaming.chunk) * config.downsample_rate / SAMPLE_RATE
    wavs = noise(seconds)
    streams = OnnxStream(path).stream(wavs), encoder.stream(wavs)
    ours, theirs = (zip(*(output.hidden_states for output in stream), strict=True) for stream in streams)
    pairs = [(torch.cat(a, 1), torch.cat(b, 1)) for a, b in zip(ours, theirs, strict=True)]
    return max(_largest(a, b) for a, b in pairs), tuple(_relative(a, b) for a, b in pairs)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    return difference if difference == difference else torch.inf  # max() would lose a NaN


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).square().mean() / theirs.square().mean()).sqrt().item()
