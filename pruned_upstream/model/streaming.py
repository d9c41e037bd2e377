"""Models that hear a recording chunk by chunk: no frame depends on what comes after the end of its chunk.

Norms over time take in all that was heard up to the end of the chunk, the position convolution sees zeros behind it,
attention a mask. So the whole recording can be computed at once, as in training, or chunk after chunk with what is
`Carried` from one to the next; both give the same.

Shapes: B recordings, K chunks of c frames, P samples under a chunk, T frames, d the transformer's width, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from .config import EncoderConfig, Streaming, pieces
from .waveforms import as_waveforms, is_empty, is_one

if TYPE_CHECKING:
    from .encoder import Encoder, EncoderOutput


class Heard:
    """Mean and variance of all that was heard so far, for each recording and channel."""

    def __init__(self, recordings: int) -> None:
        self.recordings = recordings
        self.count: Tensor | int = 0
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
    """What one chunk leaves to the next; `frames` is how many of the past attention reaches, `history` at most.

    unheard: (1, frames), True at frames of the past that are there and were never heard (`fixed`).
    """

    history: int
    layers: list[Memory]
    waveform: Heard = field(default_factory=lambda: Heard(1))
    first_block: Heard = field(default_factory=lambda: Heard(1))
    projected: Tensor | None = None  # (1, before, d), the frames before the chunk that the position convolution sees
    frames: int = 0
    unheard: Tensor | None = None


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


def chunks(config: EncoderConfig, pieces: Iterable[Any]) -> Iterator[tuple[Tensor, int]]:
    """The samples (P,) under each chunk of audio that comes in pieces, and how many of its frames there are.

    Raises:
        ConfigError: the model attends to whole recordings.
        DataError: as `waveforms.as_waveforms`, but that a piece may be empty; a piece holds several waveforms; or all
            pieces together are shorter than a frame.
    """
    streaming = config.require_streaming()
    hop, width = samples_of_chunk(config, streaming)
    waiting, started = torch.zeros(0), False
    pieces = [pieces] if is_one(pieces) else pieces
    if not isinstance(pieces, Iterable):
        raise DataError(f"{type(pieces).__name__} is no recording; give an iterator of waveforms")
    for piece in pieces:
        if is_empty(piece):
            continue  # nothing was there to be read
        waveforms = as_waveforms(piece)
        if len(waveforms) != 1:
            raise DataError(f"a stream is of one recording, and a piece of it holds {len(waveforms)} waveforms")
        waiting = torch.cat([waiting.to(waveforms[0].device), waveforms[0].float()])
        while len(waiting) >= width:
            yield waiting[:width], streaming.chunk
            waiting, started = waiting[hop:], True
    if not started:
        config.require_frames(len(waiting))
    if frames := config.frames(len(waiting)):
        yield F.pad(waiting, (0, width - len(waiting))), frames


def stream(encoder: Encoder, pieces: Iterable[Any]) -> Iterator[EncoderOutput]:
    """See `Encoder.stream`."""
    like = next(parameter for parameter in encoder.parameters() if parameter.is_floating_point())
    history = encoder.config.require_streaming().history
    carried = Carried(history, [Memory(history) for _ in encoder.config.layers])
    for samples, frames in chunks(encoder.config, pieces):
        yield encoder.hear(samples.to(like), frames, carried)


# with tensors of one size from the first chunk on, for runtimes that want that ----------------------------------------


def nothing_heard(encoder: Encoder) -> dict[str, Tensor]:
    """What is carried to the first chunk, by name: memories as long as the history, of which nothing was heard."""
    config, streaming = encoder.config, encoder.config.require_streaming()
    before = sum(block.reach for block in encoder.encoder.pos_conv)
    state = {"heard": torch.zeros(1, dtype=torch.long), "projected": torch.zeros(1, before, config.embed_dim)}
    sums = {"waveform": 1} if config.normalize else {}
    if config.extractor_mode == "default":
        sums["first_block"] = config.conv[0].channels
    for name, channels in sums.items():
        state[f"{name}_count"] = torch.zeros(1, dtype=torch.long)
        for kind in ("sums", "squares"):
            state[f"{name}_{kind}"] = torch.zeros(1, 1, channels, dtype=torch.double)
    for number, layer in enumerate(encoder.encoder.layers, start=1):
        if layer.self_attn is not None and layer.self_attn.heads and streaming.history:
            size = (1, len(layer.self_attn.heads), streaming.history, layer.self_attn.width)
            state |= {f"key_{number}": torch.zeros(size), f"value_{number}": torch.zeros(size)}
    return state


def carried_from(config: EncoderConfig, state: Mapping[str, Tensor]) -> Carried:
    """What a chunk is given, from tensors with the names of `nothing_heard`."""
    history = config.require_streaming().history
    memories = [
        Memory(history, state.get(f"key_{number}"), state.get(f"value_{number}"))
        for number in range(1, config.num_layers + 1)
    ]
    carried = Carried(history, memories, projected=state["projected"], frames=history)
    for name, heard in (("waveform", carried.waveform), ("first_block", carried.first_block)):
        if f"{name}_count" in state:
            heard.count, heard.sums, heard.squares = (state[f"{name}_{kind}"] for kind in ("count", "sums", "squares"))
    carried.unheard = (torch.arange(history) < history - state["heard"]).unsqueeze(0)
    return carried


def carried_to(config: EncoderConfig, carried: Carried, heard: Tensor) -> dict[str, Any]:
    """The tensors of `nothing_heard` after a chunk; `heard`: what there was before it."""
    chunk = config.require_streaming().chunk
    state: dict[str, Any] = {"heard": (heard + chunk).clamp(max=carried.history), "projected": carried.projected}
    for name, statistics in (("waveform", carried.waveform), ("first_block", carried.first_block)):
        state |= {f"{name}_{kind}": getattr(statistics, kind) for kind in ("count", "sums", "squares")}
    for number, memory in enumerate(carried.layers, start=1):
        state |= {f"key_{number}": memory.key, f"value_{number}": memory.value}
    return state
