"""What masked prediction predicts: k-means units of smoothed cepstra, HuBERT's first iteration.

Hsu et al., "HuBERT" (2021), section III-A, clusters 39-dimensional MFCC; a small teacher on little data learns
more from 13 coefficients averaged over neighbouring frames (see benchmarks).
Frames are cut as the encoder cuts them, so that unit t belongs to frame t.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, DataError
from ..files import atomic_write
from ..model.config import EncoderConfig
from .corpus import SAMPLE_RATE

MELS = 40
COEFFICIENTS = 13


def log_mel(waveforms: Tensor, config: EncoderConfig) -> Tensor:
    """Log mel energies of the frames that the front end makes: (B, S) -> (B, T, 40)."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=waveforms.numpy(),
        sr=SAMPLE_RATE,
        n_fft=config.receptive_field,
        hop_length=config.downsample_rate,
        n_mels=MELS,
        center=False,
    )  # (B, 40, T)
    return torch.from_numpy(np.log(mel + 1e-5)).transpose(1, 2).float()


def smoothed_cepstra(mel: Tensor, smoothing: int) -> Tensor:
    """Cosine transform of log mel energies, a running mean over `smoothing` (odd) frames: (B, T, 40) -> (B, T, 13)."""
    from scipy.fft import dct

    cepstra = torch.from_numpy(dct(mel.numpy(), norm="ortho")[..., :COEFFICIENTS].copy()).transpose(1, 2)
    side = smoothing // 2
    padded = F.pad(cepstra, (side, side), mode="replicate")  # (B, 13, T + 2 side)
    return F.avg_pool1d(padded, smoothing, stride=1).transpose(1, 2)


class Normaliser(NamedTuple):
    """Brings each coefficient to zero mean and unit variance over the frames it was fitted on."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, frames: Tensor) -> Normaliser:  # (N, coefficients)
        return cls(frames.mean(0), frames.std(0).clamp(min=1e-5))

    def __call__(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / self.scale


@dataclass(frozen=True)
class Targets:
    """The two targets of a frame: its normalised log mel energies, and its unit, the nearest of (K, 13) centroids."""

    mel: Normaliser
    cepstra: Normaliser
    centroids: Tensor
    smoothing: int

    @classmethod
    def fit(
        cls, waveforms: Iterable[Tensor], config: EncoderConfig, *, units: int, smoothing: int, seed: int
    ) -> Targets:
        """Cluster the frames of some speech.

        Args:
            waveforms: (B, S) each, without padding.

        Raises:
            DataError: fewer frames than units.
        """
        from sklearn.cluster import MiniBatchKMeans

        mels = [log_mel(batch, config) for batch in waveforms]
        mel = torch.cat([m.flatten(0, 1) for m in mels])
        cepstra = torch.cat([smoothed_cepstra(m, smoothing).flatten(0, 1) for m in mels])
        if len(cepstra) < units:
            raise DataError(f"{len(cepstra)} frames cannot be clustered into {units} units; give more speech")
        normaliser = Normaliser.fit(cepstra)
        kmeans = MiniBatchKMeans(units, random_state=seed, n_init=3, batch_size=4096).fit(normaliser(cepstra).numpy())
        return cls(Normaliser.fit(mel), normaliser, torch.from_numpy(kmeans.cluster_centers_).float(), smoothing)

    def __call__(self, waveforms: Tensor, config: EncoderConfig) -> tuple[Tensor, Tensor]:
        """Log mel energies (B, T, 40) and units (B, T) of waveforms (B, S)."""
        mel = log_mel(waveforms, config)
        cepstra = self.cepstra(smoothed_cepstra(mel, self.smoothing))
        units = torch.cdist(cepstra, self.centroids.expand(len(cepstra), -1, -1)).argmin(-1)
        return self.mel(mel), units

    def save(self, path: Path) -> None:
        state = {
            "mel": tuple(self.mel),
            "cepstra": tuple(self.cepstra),
            "centroids": self.centroids,
            "smoothing": self.smoothing,
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Raises CheckpointError when the file is not what `save` wrote."""
        try:
            state = torch.load(path, weights_only=True)
            return cls(Normaliser(*state["mel"]), Normaliser(*state["cepstra"]), state["centroids"], state["smoothing"])
        except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} does not hold the targets of this run ({error}); remove the file") from error
