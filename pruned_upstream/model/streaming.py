"""Models that hear a recording chunk by chunk: no frame depends on what comes after the end of its chunk.

Norms over time take in all that was heard up to the end of the chunk, the position convolution sees zeros behind it,
attention a mask. So the whole recording can be computed at once, as in training, or chunk after chunk with what is
`Carried` from one to the next; both give the same.

Shapes: B recordings, K chunks of c frames, P samples under a chunk, T frames, d the transformer's width, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .config import SAMPLE_RATE, EncoderConfig, Streaming, pieces
from .waveforms import as_waveforms

if TYPE_CHECKING:
    from .encoder import Encoder, EncoderOutput


class Heard:
    """Mean and variance of all that was heard so far, for each recording and channel."""

    def __init__(self, recordings: int) -> None:
        self.recordings = recordings
        self.count = 0
        self.sums: Tensor | float = 0.0  # (B, 1, C) in double precision
        self.squares: Tensor | float = 0.0

    def normalised(self, x: Tensor, eps: float) -> Tensor:
        """Each chunk by the statistics of all up to and with it: (B K, C, N) -> (B K, C, N)."""
        chunks = x.unflatten(0, (self.recordings, -1))  # (B, K, C, N)
        sums = self.sums + chunks.sum(3, dtype=torch.double).cumsum(1)  # (B, K, C)
        squares = self.squares + chunks.double().square().sum(3).cumsum(1)
        counts = self.count + chunks.size(3) * torch.arange(1, chunks.size(1) + 1, device=x.device).unsqueeze(1)
        self.sums, self.squares = sums[:, -1:], squares[:, -1:]
        self.count += chunks.size(3) * chunks.size(1)
        mean = sums / counts
        scale = torch.rsqrt((squares / counts - mean.square()).clamp(min=0) + eps)
        return ((chunks - mean.to(x.dtype).unsqueeze(3)) * scale.to(x.dtype).unsqueeze(3)).flatten(0, 1)


class GroupNormOfTheHeard(nn.Module):
    """In place of the first block's group norm, with its parameters: over what was heard, not over the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def forward(self, x: Tensor, heard: Heard) -> Tensor:  # (B K, C, N) -> (B K, C, N)
        """(B, C, S) normalised by the mean and variance of what was heard so far."""
        return heard.normalised(x, self.eps) * self.weight[:, None] + self.bias[:, None]


@dataclass
class Memory:
    """Keys and values of the frames that attention still reaches, (1, h, up to `history`, w) each."""

    history: int
    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, w) behind those remembered, which are then cut to the history."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], 2), torch.cat([self.value, value], 2)
        kept = slice(max(0, key.size(2) - self.history), None)
        self.key, self.value = key[:, :, kept], value[:, :, kept]
        return key, value


@dataclass
class Carried:
    """What one chunk leaves to the next; `frames` is how many of the past attention reaches, `history` at most."""

    history: int
    layers: list[Memory]
    waveform: Heard = field(default_factory=lambda: Heard(1))
    first_block: Heard = field(default_factory=lambda: Heard(1))
    projected: Tensor | None = None  # (1, before, d), the frames before the chunk that the position convolution sees
    frames: int = 0


def samples_of_chunk(config: EncoderConfig, streaming: Streaming) -> tuple[int, int]:
    """Samples from chunk to chunk, and samples under one."""
    hop = streaming.chunk * config.downsample_rate
    return hop, hop + config.receptive_field - config.downsample_rate


def cut(waveforms: Tensor, config: EncoderConfig, streaming: Streaming) -> Tensor:
    """The samples under each chunk, silence behind the last: (B, S) -> (B, K, P)."""
    hop, width = samples_of_chunk(config, streaming)
    chunks = pieces(config.frames(waveforms.size(1)), streaming.chunk)
    return F.pad(waveforms, (0, width))[:, windows(chunks, width, hop, waveforms.device)]


def windows(number: int, width: int, hop: int, device: torch.device) -> Tensor:
    """The places under each of `number` windows, (number, width); `unfold` would tie a graph to one length."""
    return hop * torch.arange(number, device=device).unsqueeze(1) + torch.arange(width, device=device)


def mask(frames: int, streaming: Streaming, padding_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which frames a frame attends to, (B or 1, T, T): its chunk, the history before it, itself at least."""
    frame = torch.arange(frames, device=device)
    start = frame // streaming.chunk * streaming.chunk
    reached = (frame >= (start - streaming.history).unsqueeze(1)) & (frame < (start + streaming.chunk).unsqueeze(1))
    reached = reached.unsqueeze(0)
    if padding_mask is not None:
        reached = reached & ~padding_mask.unsqueeze(1)
    return reached | torch.eye(frames, dtype=torch.bool, device=device)


def as_streaming(encoder: Encoder, chunk_seconds: float, history_seconds: float) -> Encoder:
    """The encoder with these weights that hears chunks; another function, to be trained before it is of use.

    Its padding is exact: so a batch gives what each recording gives alone.

    Raises:
        ConfigError: the encoder cannot hear chunks, or a chunk is shorter than a frame.
    """
    rate = encoder.config.downsample_rate
    chunk, history = (round(seconds * SAMPLE_RATE / rate) for seconds in (chunk_seconds, history_seconds))
    config = replace(encoder.config, streaming=Streaming(chunk, history), padding="exact")
    with torch.device("meta"):  # no random weights are drawn to be thrown away
        chunked = type(encoder)(config, encoder.dropout)
    weights = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
    chunked.load_state_dict(weights, assign=True)
    return chunked.eval()


def stream(encoder: Encoder, pieces: Iterable[Any]) -> Iterator[EncoderOutput]:
    """See `Encoder.stream`."""
    config, streaming = encoder.config, encoder.config.streaming
    if streaming is None:
        raise ConfigError(
            "this model attends to the whole of a recording and cannot be streamed exactly; `chunks` computes it by "
            "windows, and the recipe `streaming` trains one that hears chunks"
        )
    hop, width = samples_of_chunk(config, streaming)
    carried = Carried(streaming.history, [Memory(streaming.history) for _ in config.layers])
    like = next(parameter for parameter in encoder.parameters() if parameter.is_floating_point())
    waiting = like.new_zeros(0, dtype=torch.float32)
    for piece in pieces:
        (samples,) = as_waveforms(piece)
        waiting = torch.cat([waiting, samples.to(waiting)])
        while len(waiting) >= width:
            yield encoder.hear(waiting[:width].to(like.dtype), streaming.chunk, carried)
            waiting = waiting[hop:]
    if not carried.frames:
        config.require_frames(len(waiting))
    if config.frames(len(waiting)):
        frames = config.frames(len(waiting))
        yield encoder.hear(F.pad(waiting, (0, width - len(waiting))).to(like.dtype), frames, carried)
