"""What Whisper hears: log-mel spectra of windows of 30 s, and where in its window a frame lies.

Source of every step: openai/whisper, whisper/audio.py (`log_mel_spectrogram`) and whisper/model.py (`sinusoids`) on its
branch main; transformers' WhisperFeatureExtractor computes the same.

Shapes: B recordings, S samples, W windows of a recording, P samples of a window, M spectra, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SAMPLE_RATE, EncoderConfig, LogMel, pieces
from .derived import captured

FLOOR = 1e-10  # of a band's energy
RANGE = 8.0  # decades below the loudest band of a window at which everything quieter is cut
LINEAR_UP_TO, MELS_AT = 1000.0, 15.0  # Slaney's scale: hertz, and mels at that frequency
HERTZ_A_MEL, RATIO_OF_27_MELS = 200.0 / 3, 6.4
LONGEST_WAVE = 10000.0


class LogMelSpectrum(nn.Module):
    """Log-mel energies of windows, in the range that Whisper learned from: (B, P) -> (B, P / hop, bands).

    They are computed in double precision: quiet bands beside loud ones keep few digits of single precision, and the
    logarithm shows it.
    """

    def __init__(self, config: LogMel) -> None:
        super().__init__()
        self.config = config
        # constants, not buffers: a model in half precision needs them whole
        self.window = torch.hann_window(config.n_fft, dtype=torch.double, device="cpu")
        self.filters = mel_filters(config)  # (bands, n_fft / 2 + 1)

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMelSpectrum:
        """The constants go where the module goes, whatever precision it takes there."""
        super()._apply(move, recurse)
        device = move(self.window).device
        self.window, self.filters = self.window.to(device), self.filters.to(device)
        return self

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, S) at 16 kHz to Whisper's normalised logarithms of mel energies (B, bands, frames)."""
        frames = self._frames(waveforms.double()) * self.window.to(waveforms.device)  # (B, M, n_fft)
        energies = self._power(frames) @ self.filters.to(waveforms.device).t()  # (B, M, bands)
        logarithms = energies.clamp(min=FLOOR).log10()
        loudest = logarithms.amax((1, 2), keepdim=True)
        logarithms = torch.maximum(logarithms, loudest - RANGE)
        return ((logarithms + 4.0) / 4.0).to(waveforms.dtype)

    def _frames(self, waveforms: Tensor) -> Tensor:
        """(B, P) -> (B, P / hop, n_fft): frame m around sample m hop, the ends mirrored, and the last left out."""
        n_fft, hop = self.config.n_fft, self.config.hop
        touched = pieces(n_fft, hop)  # hops under a frame
        count = waveforms.size(1) // hop
        before = n_fft // 2
        padded = F.pad(waveforms.unsqueeze(1), (before, before), mode="reflect")[:, 0]
        padded = F.pad(padded, (0, touched * hop))
        hops = padded[:, : (count + touched - 1) * hop].unflatten(1, (-1, hop))  # (B, M + touched - 1, hop)
        return torch.cat([hops[:, i : i + count] for i in range(touched)], dim=2)[..., :n_fft]

    def _power(self, frames: Tensor) -> Tensor:
        """Energy at each frequency: (B, M, n_fft) -> (B, M, n_fft / 2 + 1)."""
        if not captured():
            return torch.fft.rfft(frames).abs().square()
        # a product that every runtime has; 400 samples are few enough
        time = torch.arange(self.config.n_fft, dtype=torch.double)
        angles = 2 * math.pi / self.config.n_fft * (time[:, None] * time[: self.config.n_fft // 2 + 1] % len(time))
        return (frames @ angles.cos()).square() + (frames @ angles.sin()).square()


def mel_filters(config: LogMel) -> Tensor:
    """(bands, n_fft / 2 + 1) triangles, evenly spaced from 0 to 8 kHz on Slaney's scale, each of unit area."""
    step = math.log(RATIO_OF_27_MELS) / 27
    highest = MELS_AT + math.log(SAMPLE_RATE / 2 / LINEAR_UP_TO) / step
    mels = torch.linspace(0, highest, config.bands + 2, dtype=torch.double, device="cpu")
    corners = torch.where(mels < MELS_AT, HERTZ_A_MEL * mels, LINEAR_UP_TO * torch.exp(step * (mels - MELS_AT)))
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, config.n_fft // 2 + 1, dtype=torch.double, device="cpu")
    low, middle, high = (corners[i : i + config.bands, None] for i in range(3))  # (bands, 1)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)


def sinusoids(rows: int, dim: int) -> Tensor:
    """Whisper's table of positions, (rows, dim): sines, then cosines, of waves of 1 to 10 000 frames over 2 pi."""
    half = dim // 2
    rates = torch.exp(-math.log(LONGEST_WAVE) / max(half - 1, 1) * torch.arange(half))
    angles = torch.arange(rows).unsqueeze(1) * rates  # (rows, dim / 2)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim - 2 * half))


def window_layout(samples: int, config: EncoderConfig) -> tuple[int, int]:
    """Windows that a model with spectra cuts a recording into, and the samples of each.

    A window of the recording's own length has some silence behind it, too, as far as frames reach: so its frames are
    those that the whole window would have, and the same in every batch.
    """
    rate = config.downsample_rate
    window = config.positions * rate
    count = pieces(samples, window)
    width = window
    if not config.whole_windows:
        reach = pieces(config.receptive_field, rate) * rate
        width = torch.sym_min(window, pieces(samples, rate) * rate + reach)
    return count, width


def waveforms_in_windows(waveforms: Tensor, config: EncoderConfig) -> Tensor:
    """Cut recordings into the windows that the model hears: (B, S) -> (B W, P), filled up with silence."""
    count, width = window_layout(waveforms.size(1), config)
    return F.pad(waveforms, (0, count * width - waveforms.size(1))).view(-1, width)


class FramesInWindows:
    """Frames of recordings, cut into windows that attend each to itself, and joined again.

    Args:
        frames: T of the batch.
        positions: frames of a whole window.
    """

    def __init__(self, frames: int, positions: int) -> None:
        self.frames = frames
        self.width = torch.sym_min(frames, positions)
        self.count = pieces(frames, positions)

    def cut(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, T, d) -> (B W, width, d), and the mask (B, T) -> (B W, width); what is filled up is padding."""
        missing = self.count * self.width - self.frames
        batch = x.size(0)
        if padding_mask is None and missing:
            padding_mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        x = F.pad(x, (0, 0, 0, missing)).view(batch * self.count, self.width, x.size(2))
        if padding_mask is not None:
            padding_mask = F.pad(padding_mask, (0, missing), value=True).view(batch * self.count, self.width)
            # a window of nothing but padding needs a frame to attend to; what comes out is padding all the same
            first = torch.arange(self.width, device=x.device) == 0
            padding_mask = padding_mask & ~(first & padding_mask.all(1, keepdim=True))
        return x, padding_mask

    def join(self, x: Tensor) -> Tensor:  # (B W, width, d) -> (B, T, d)
        """(B windows, width, d) back to (B, T, d), what filled the last window up cut off."""
        return x.view(-1, self.count * self.width, x.size(2))[:, : self.frames]
