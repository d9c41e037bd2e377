"""From audio to hidden states, whatever computes them: padded batches, batches of equal length, chunks with context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, DataError
from ..parsing import require, require_seconds
from .config import SAMPLE_RATE, EncoderConfig
from .waveforms import as_waveforms

DEFAULT_CONTEXT = 4.0  # seconds on each side of a chunk


class HiddenStates(Protocol):
    """A named tuple with these fields; whatever else it holds is of the shape (B, T, d)."""

    @property
    def hidden_states(self) -> Sequence[Tensor]:
        """L + 1 tensors (B, T, d)."""

    @property
    def padding_mask(self) -> Tensor | None:
        """(B, T), True at padding; None where nothing is padded."""

    def _asdict(self) -> dict[str, Any]: ...


Output = TypeVar("Output", bound=HiddenStates)


class Extracts(Generic[Output]):
    """A model that `extract`s hidden states; torch's encoder and onnxruntime's are two."""

    config: EncoderConfig

    def compute(self, waveforms: Sequence[Tensor]) -> Output:
        """Hidden states of waveforms (samples,), as one batch padded to the longest."""
        raise NotImplementedError

    def extract(
        self,
        audio: Any,
        lengths: Sequence[int] | Tensor | None = None,
        *,
        equal_lengths: bool = False,
        chunk_seconds: float | None = None,
        context_seconds: float | None = None,
    ) -> Output:
        """Hidden states of audio at 16 kHz: L + 1 tensors (B, T, d), and which frames are padding.

        Waveforms of different lengths are padded to one batch, as s3prl and fairseq do it. Padding is masked in
        attention; but a model with a group norm (Base models: `extractor_mode` "default") normalises over padding too,
        and moves what it says of a short clip beside a long one. `equal_lengths` computes each length by itself.

        Args:
            audio: one waveform, a batch (B, samples), a list of waveforms, or file names; see `as_waveforms`.
            lengths: samples of each utterance of a padded batch (B, samples).
            equal_lengths: batches hold waveforms of one length alone: the answer is that for each waveform alone, at
                the price of as many passes as there are lengths.
            chunk_seconds: compute a window at a time, in memory that does not grow with the length of the recording
                (but for the answer itself; `chunks` hands it out piece by piece).
            context_seconds: what a window holds before and behind its chunk; 4 s by default. Frames differ from those
                of the whole recording, by how much is tabled in docs/encoder.md.

        Raises:
            DataError: as `as_waveforms`; or no waveform is as long as a frame.
            ConfigError: the chunk is not positive, or the context negative or without a chunk.
        """
        waveforms = as_waveforms(audio, lengths)
        if chunk_seconds is not None:
            pieces = [
                self._in_time(list(self.chunks(waveform, chunk_seconds, context_seconds))) for waveform in waveforms
            ]
            return self._in_batch([(number, piece, 0) for number, piece in enumerate(pieces)])
        if context_seconds is not None:
            raise ConfigError("context_seconds goes with chunk_seconds; give both or neither")
        if not equal_lengths:
            return self.compute(waveforms)
        places: dict[int, list[int]] = {}
        for place, waveform in enumerate(waveforms):
            places.setdefault(len(waveform), []).append(place)
        for length, (first, *_) in places.items():
            self._require_frames(length, f"waveform {first}")
        outputs = {length: self.compute([waveforms[i] for i in own]) for length, own in places.items()}
        rows = [(place, outputs[length], row) for length, own in places.items() for row, place in enumerate(own)]
        return self._in_batch(rows)

    def chunks(self, audio: Any, chunk_seconds: float = 10.0, context_seconds: float | None = None) -> Iterator[Output]:
        """Hidden states of one recording, chunk after chunk: (1, frames of the chunk, d) each, T frames in all.

        >>> for output in encoder.chunks("lecture.wav", chunk_seconds=10, context_seconds=4):
        ...     write(output.hidden_states[-1][0])

        Args and errors are those of `extract`.
        """
        context_seconds = DEFAULT_CONTEXT if context_seconds is None else context_seconds
        require_seconds("chunk_seconds", chunk_seconds)
        require_seconds("context_seconds", context_seconds)
        require(chunk_seconds > 0, "chunk_seconds", chunk_seconds, "be above 0")
        require(context_seconds >= 0, "context_seconds", context_seconds, "be at least 0")
        if self.config.log_mel is not None:
            raise ConfigError("a model of log-mel windows cuts recordings into windows itself; leave out chunk_seconds")
        if self.config.streaming is not None:
            raise ConfigError("a streaming model hears chunks by itself: use `stream`, or leave out chunk_seconds")
        waveforms = as_waveforms(audio)
        if len(waveforms) != 1:
            raise DataError(f"chunks takes one recording, and these are {len(waveforms)}")
        return self._chunks(waveforms[0], chunk_seconds, context_seconds)

    def _chunks(self, waveform: Tensor, chunk_seconds: float, context_seconds: float) -> Iterator[Output]:
        rate, field = self.config.downsample_rate, self.config.receptive_field
        self._require_frames(len(waveform), "the waveform")
        frames = self.config.frames(len(waveform))
        chunk = max(1, round(chunk_seconds * SAMPLE_RATE / rate))
        context = round(context_seconds * SAMPLE_RATE / rate)
        for start in range(0, frames, chunk):
            end = min(start + chunk, frames)
            first, last = max(0, start - context), min(end + context, frames)
            window = waveform[first * rate : (last - 1) * rate + field]
            if last == frames:
                window = waveform[first * rate :]  # samples behind the last frame count in the norms, as in the whole
            yield self._frames(self.compute([window]), start - first, end - first)

    def _require_frames(self, samples: int, name: str) -> None:
        if self.config.frames(samples) < 1:
            raise DataError(
                f"{name} has {samples} samples, fewer than the front end's receptive field of "
                f"{self.config.receptive_field}; pad it or leave it out"
            )

    # outputs are named tuples, of which everything but the mask is (B, T, d) -----------------------------------------

    @staticmethod
    def _frames(output: Output, start: int, end: int) -> Output:
        return _mapped([output], lambda tensors: tensors[0][:, start:end].clone())

    @staticmethod
    def _in_time(outputs: list[Output]) -> Output:
        return _mapped(outputs, lambda tensors: torch.cat(tensors, 1))

    @staticmethod
    def _in_batch(rows: list[tuple[int, Output, int]]) -> Output:
        """A batch of rows of outputs: (place in the batch, output, its row) each, padded with zeros to the longest."""
        rows = sorted(rows, key=lambda row: row[0])
        numbers = [row for _, _, row in rows]
        frames = [output.hidden_states[0].size(1) for _, output, _ in rows]
        longest = max(frames)

        def stacked(tensors: list[Tensor]) -> Tensor:
            own = zip(tensors, numbers, strict=True)
            return torch.stack([F.pad(tensor[row], (0, 0, 0, longest - tensor.size(1))) for tensor, row in own])

        device = rows[0][1].hidden_states[0].device
        mask = None
        if min(frames) < longest:
            mask = torch.arange(longest, device=device) >= torch.tensor(frames, device=device).unsqueeze(1)
        return _mapped([output for _, output, _ in rows], stacked, mask)


def _mapped(
    outputs: list[Output], function: Callable[[list[Tensor]], Tensor], padding_mask: Tensor | None = None
) -> Output:
    """One output whose every tensor (B, T, d) is `function` of those of `outputs`."""
    values: dict[str, Any] = {}
    for field in outputs[0]._asdict():
        parts = [getattr(output, field) for output in outputs]
        if field == "padding_mask":
            values[field] = padding_mask
        elif isinstance(parts[0], Tensor):
            values[field] = function(parts)
        else:
            values[field] = [function(list(states)) for states in zip(*parts, strict=True)]
    return type(outputs[0])(**values)
