"""What masked prediction predicts: k-means units of smoothed cepstra, or labels that a better clustering has given.

Hsu et al., "HuBERT" (2021), section III-A, clusters 39-dimensional MFCC in its first iteration; a small teacher on
little data learns more from 13 coefficients averaged over neighbouring frames (see benchmarks). Later iterations
cluster hidden states, and reach training as files of labels (fairseq, examples/hubert, `.km`).
Frames are cut as the encoder cuts them, so that unit t belongs to frame t.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, DataError
from ..files import atomic_write
from ..model.config import SAMPLE_RATE, EncoderConfig
from .corpus import Corpus, lines_beside
from .data import Batch
from .fingerprints import tensors_fingerprint

MELS = 40
SPARE_LABELS = 5  # 0.1 seconds; fairseq allows as much (fairseq/data/audio/hubert_dataset.py, verify_label_lengths)
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
        """Mean and deviation of each column of frames (N, d)."""
        return cls(frames.mean(0), frames.std(0).clamp(min=1e-5))

    def __call__(self, frames: Tensor) -> Tensor:
        """Normalise frames (..., d)."""
        return (frames - self.mean) / self.scale


@dataclass(frozen=True)
class Clusters:
    """Units as the nearest of (K, 13) centroids of normalised, smoothed cepstra."""

    cepstra: Normaliser
    centroids: Tensor
    smoothing: int

    @classmethod
    def fit(cls, mels: Sequence[Tensor], *, units: int, smoothing: int, seed: int) -> Clusters:
        """Cluster the frames of log mel energies (B, T, 40). Raises DataError for fewer frames than units."""
        from sklearn.cluster import MiniBatchKMeans

        cepstra = torch.cat([smoothed_cepstra(mel, smoothing).flatten(0, 1) for mel in mels])
        if len(cepstra) < units:
            raise DataError(f"{len(cepstra)} frames cannot be clustered into {units} units; give more speech")
        normaliser = Normaliser.fit(cepstra)
        kmeans = MiniBatchKMeans(units, random_state=seed, n_init=3, batch_size=4096).fit(normaliser(cepstra).numpy())
        return cls(normaliser, torch.from_numpy(kmeans.cluster_centers_).float(), smoothing)

    def __call__(self, mel: Tensor) -> Tensor:
        """The unit of each frame of log mel energies: (B, T, 40) -> (B, T)."""
        cepstra = self.cepstra(smoothed_cepstra(mel, self.smoothing))
        return torch.cdist(cepstra, self.centroids.expand(len(cepstra), -1, -1)).argmin(-1)


@dataclass(frozen=True)
class FrameLabels:
    """Units that were given, one label per frame, as fairseq's HuBERT reads them: of each recording (T,)."""

    of_recording: list[Tensor]

    @classmethod
    def read(
        cls, manifests: Sequence[str | Path], ending: str, corpus: Corpus, config: EncoderConfig, *, units: int
    ) -> FrameLabels:
        """Read `NAME.ending` beside each `NAME.tsv`: numbers from 0 to below `units`, one line per recording.

        Raises:
            DataError: a source is no manifest or has no labels, a line is malformed, or has another number of labels
                than the encoder makes frames of its recording; a few more may be there.
        """
        lines: dict[Path, str] = {}
        for source in map(Path, manifests):
            if source.suffix != ".tsv":
                raise DataError(f"{source} is no manifest (.tsv), beside which masking.labels={ending} could lie")
            lines |= lines_beside(source, [f".{ending}"], "frame labels")[1]
        return cls(
            [
                _frame_labels(utterance.name, lines[utterance.path], config.frames(utterance.samples), units)
                for utterance in corpus.utterances
            ]
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all labels."""
        return tensors_fingerprint({str(number): labels for number, labels in enumerate(self.of_recording)})

    def __call__(self, part: Batch, config: EncoderConfig) -> Tensor:
        """(B, T) of a micro-batch.

        A crop that starts within a frame takes that frame's label. Where a recording has no more, its last label goes
        on: models that deal padding out in shares count a frame more at times (`Encoder.padding_mask`).
        """
        found = torch.zeros(len(part.wavs), config.frames(part.pad_to), dtype=torch.long)
        for row, utterance, start in zip(found, part.utterances, part.starts, strict=True):
            labels = self.of_recording[utterance][start // config.downsample_rate :][: len(row)]
            row[: len(labels)] = labels
            row[len(labels) :] = labels[-1]
        return found


def _frame_labels(name: str, line: str, frames: int, units: int) -> Tensor:
    numbers = line.split()
    if not all(number.isdecimal() and int(number) < units for number in numbers):
        raise DataError(f"the frame labels of {name} must be numbers from 0 to {units - 1}; see masking.units")
    if not frames <= len(numbers) <= frames + SPARE_LABELS:
        raise DataError(
            f"{name} has {len(numbers)} frame labels and {frames} frames; each frame needs one, whatever the rate of "
            "the features that were clustered"
        )
    return torch.tensor([int(number) for number in numbers], dtype=torch.int32)


@dataclass(frozen=True)
class Targets:
    """The two targets of a frame: its normalised log mel energies, and its unit, unless units are given as labels.

    Attributes:
        settings: what they were fitted by; those of other settings would be other targets.
    """

    mel: Normaliser
    clusters: Clusters | None
    settings: dict[str, Any]

    @classmethod
    def fit(
        cls,
        waveforms: Iterable[Tensor],
        config: EncoderConfig,
        *,
        units: int | None,
        smoothing: int,
        seed: int,
        settings: dict[str, Any] | None = None,
    ) -> Targets:
        """Measure the frames of some speech, and cluster them.

        Args:
            waveforms: (B, S) each, without padding.
            units: clusters; None for none.

        Raises:
            DataError: fewer frames than units.
        """
        mels = [log_mel(batch, config) for batch in waveforms]
        clusters = None if units is None else Clusters.fit(mels, units=units, smoothing=smoothing, seed=seed)
        return cls(Normaliser.fit(torch.cat([mel.flatten(0, 1) for mel in mels])), clusters, settings or {})

    def save(self, path: Path) -> None:
        """Write them to a file, which `load` reads."""
        clusters = self.clusters
        state = {
            "mel": tuple(self.mel),
            "clusters": clusters and [tuple(clusters.cepstra), clusters.centroids, clusters.smoothing],
            "settings": self.settings,
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Raises CheckpointError when the file is not what `save` wrote."""
        try:
            state = torch.load(path, weights_only=True)
            found = state["clusters"]
            clusters = None if found is None else Clusters(Normaliser(*found[0]), *found[1:])
            return cls(Normaliser(*state["mel"]), clusters, state["settings"])
        except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} does not hold the targets of this run ({error}); remove the file") from error
