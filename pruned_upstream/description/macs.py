"""Multiply-accumulates of an encoder in closed form, and the official count over 32 utterances.

Counted, for one utterance of T frames at batch 1 in evaluation mode: every convolution, matrix product and
attention product of the forward pass, as the model defines it. Heads count with their own widths, though computing
pads them to one width; the position convolution counts as a convolution, though a CPU computes it in the frequency
domain. `NOT_COUNTED` lists the rest. For the shape of HuBERT Base this formula stays within 0.3 % of the official
number.

The official numbers were taken with a profiler that patches torch's functions: a fork of DeepSpeed's,
B06901052/DeepSpeed, branch superb-challenge (2226d27a), flops_profiler/profiler.py and
testing/s3prl_profiling_test.py, which runs on a GPU unless told otherwise. It patches `linear`, `conv1d`, `matmul` and
their like. `scaled_dot_product_attention` came later and is not among them, so of a model that attends with it the
profiler misses the attention products; and on a CPU, where ours convolves positions in the frequency domain, it misses
that convolution, too. `seen_by_profiler` says what it would count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ..errors import DataError
from ..model.attention import GATE_WIDTH
from ..model.config import EncoderConfig, Streaming, TransformerLayer, pieces
from ..model.log_mel import window_layout
from ..model.streaming import samples_of_chunk

# Samples of the (82 i + 1)-th shortest of LibriSpeech test-clean's 2620 utterances, i = 0 .. 31: from
# 672-122797-0033 to 3729-6852-0045 (B06901052/DeepSpeed, testing/s3prl_profiling_test.py).
# fmt: off
OFFICIAL_LENGTHS = (
    20560, 34560, 38480, 42560, 45600, 48720, 52000, 55120,
    59120, 62720, 66400, 71200, 75200, 78640, 82800, 87520,
    92720, 98560, 104400, 111120, 118480, 125040, 132720, 142640,
    154000, 166720, 180880, 197920, 217920, 239280, 268160, 326000,
)
# fmt: on
BUCKETS = ("short", "medium", "long", "longer")
BUCKET_SIZE = len(OFFICIAL_LENGTHS) // len(BUCKETS)

NOT_COUNTED = (
    "normalisation of the waveform, group norm and layer norms",
    "the Fourier transforms of Whisper's spectra, one every 10 ms",
    "GELU, softmax, sigmoid and every other elementwise operation, gates and bias additions included",
    "the position bias: its look-up, and its product with the gate",
    "weight normalisation of the position convolution, which evaluation computes once",
    "zero padding of ragged heads to one width",
    "prediction heads, which feature extraction does not run",
)

PROFILER_REMARK = (
    "the official profiler (DeepSpeed's fork for SUPERB) does not see the attention products inside "
    "scaled_dot_product_attention, nor on a CPU the position convolution, computed in the frequency domain there; it "
    "shows the last two figures, on a CPU to within half a percent"
)

GATE_OUTPUTS = 2  # WavLM's position gate maps a head's slice of the input to two numbers
GATE_OUTPUTS_UNDER_HOOKS = GATE_WIDTH  # each is a sum of four, which are computed one by one where modules have hooks


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass, by part; the parts sum to `total`."""

    front_end: int
    projection: int
    position_convolution: int
    attention_projections: int
    attention_products: int
    position_gate: int
    feed_forward: int

    @property
    def total(self) -> int:
        """The sum over all parts, in multiply-accumulates."""
        return sum(vars(self).values())

    def __add__(self, other: Macs) -> Macs:
        return Macs(**{part: count + getattr(other, part) for part, count in vars(self).items()})


def count_macs(config: EncoderConfig, samples: int, *, streamed: bool = False) -> Macs:
    """MACs of one utterance.

    A streaming model computes the samples and frames around the edges of its chunks twice, and that is counted. Given
    the whole it attends to all pairs of frames and masks most of them; streamed, to what it remembers alone.

    Args:
        samples: length at 16 kHz.
        streamed: as `Encoder.stream` computes it, by a streaming model.

    Raises:
        DataError: the utterance is shorter than the front end's receptive field.
    """
    own_frames = config.frames(samples)
    if own_frames < 1:
        raise DataError(
            f"an utterance of {samples} samples is shorter than the receptive field, {config.receptive_field}"
        )
    layers = config.layers
    frames, products = own_frames, own_frames * own_frames  # computed frames, and pairs of frames that attend
    if config.positions:  # whole windows, or one that is shorter
        windows = pieces(own_frames, config.positions)
        width = min(own_frames, config.positions) if not config.whole_windows else config.positions
        frames, products = windows * width, windows * width * width
    elif config.streaming is not None and streamed:
        products = sum(queries * keys for queries, keys in chunks(frames, config.streaming))
    return Macs(
        front_end=_front_end(config, samples),
        projection=frames * config.feature_dim * config.embed_dim if config.has_projection else 0,
        position_convolution=_position_convolution(config, frames),
        attention_projections=sum(2 * frames * config.embed_dim * (layer.qk + layer.vo) for layer in layers),
        attention_products=sum(products * (layer.qk + layer.vo) for layer in layers),
        position_gate=sum(_position_gate(config, layer, frames) for layer in layers),
        feed_forward=sum(2 * frames * config.embed_dim * layer.ffn for layer in layers),
    )


def official_macs(config: EncoderConfig, *, streamed: bool = False) -> tuple[Macs, ...]:
    """MACs summed over each of the four official buckets: eight utterances each, the shortest first."""
    buckets = []
    for start in range(0, len(OFFICIAL_LENGTHS), BUCKET_SIZE):
        lengths = OFFICIAL_LENGTHS[start : start + BUCKET_SIZE]
        counts = [count_macs(config, samples, streamed=streamed) for samples in lengths]
        buckets.append(sum(counts[1:], start=counts[0]))
    return tuple(buckets)


def seen_by_profiler(config: EncoderConfig, macs: Macs, *, on_cpu: bool = False) -> int:
    """What the official profiler counts of `macs`.

    Exact on a GPU. On a CPU products in the frequency domain are seen in place of the position convolution: less than
    half a percent of a published model.
    """
    seen = macs.total - macs.attention_products
    if on_cpu and config.conv_pos_depth == 1:
        seen -= macs.position_convolution
    return seen + macs.position_gate * (GATE_OUTPUTS_UNDER_HOOKS // GATE_OUTPUTS - 1)


def _front_end(config: EncoderConfig, samples: int) -> int:
    channels = [config.input_channels, *(layer.channels for layer in config.conv)]
    pairs = [inputs * outputs for inputs, outputs in pairwise(channels)]
    macs = sum(rate * pair for rate, pair in zip(channel_pairs(config, samples), pairs, strict=True))
    if config.log_mel is not None:
        windows, width = window_layout(samples, config)
        macs += windows * (width // config.log_mel.hop) * config.log_mel.bands * (config.log_mel.n_fft // 2 + 1)
    return macs


def channel_pairs(config: EncoderConfig, samples: int) -> list[int]:
    """MACs of one utterance for each pair of an input and an output channel, of each convolution."""
    windows = 1
    if config.log_mel is not None:
        windows, samples = window_layout(samples, config)
    elif config.streaming is not None:
        windows = pieces(config.frames(samples), config.streaming.chunk)
        samples = samples_of_chunk(config, config.streaming)[1]
    outputs = config.outputs_of_convolutions(samples)
    return [windows * places * layer.kernel for places, layer in zip(outputs, config.conv, strict=True)]


def chunks(frames: int, streaming: Streaming) -> Iterator[tuple[int, int]]:
    """Of each chunk of a stream of `frames` frames, how many frames attend, and to how many."""
    for start in range(0, frames, streaming.chunk):
        queries = min(streaming.chunk, frames - start)
        yield queries, min(start, streaming.history) + queries


def _position_convolution(config: EncoderConfig, frames: int) -> int:
    if config.conv_pos_depth == 0:
        return 0
    d, kernel, windows = config.embed_dim, config.position_kernel, 1
    if config.streaming is not None:  # each chunk behind the frames that its first one sees
        windows = pieces(frames, config.streaming.chunk)
        frames = config.conv_pos_depth * (kernel // 2) + config.streaming.chunk
    computed = frames + 2 * (kernel // 2) - kernel + 1  # an even kernel computes one frame too many
    return config.conv_pos_depth * windows * computed * d * (d // config.conv_pos_groups) * kernel


def _position_gate(config: EncoderConfig, layer: TransformerLayer, frames: int) -> int:
    if config.relative_position is None or not config.relative_position.gated:
        return 0
    return frames * len(layer.heads) * config.head_dim * GATE_OUTPUTS
