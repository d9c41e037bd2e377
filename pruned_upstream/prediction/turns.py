"""Who speaks when: SD's turns of a recording, as RTTM."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import DataError
from ..model.config import SAMPLE_RATE
from ..superb.diarization import Turn, turns_of
from . import recordings
from .experiment import Experiment
from .trained import Features, expert_module, load_weights, quiet_root_logger

# where no run has chosen them on a test set
THRESHOLD, MEDIAN = 0.5, 11


@dataclass(frozen=True)
class Turns:
    """The turns of one clip; the speakers are numbers without meaning beyond it."""

    clip: str
    turns: tuple[Turn, ...]

    def rttm(self) -> list[str]:
        """One SPEAKER line per turn, by start."""
        name = Path(self.clip).stem
        return [
            f"SPEAKER {name} 1 {turn.start:.2f} {turn.end - turn.start:.2f} <NA> <NA> {turn.speaker} <NA> <NA>"
            for turn in self.turns
        ]

    def lines(self, top: int) -> list[str]:
        """The turns as lines of RTTM."""
        return self.rttm()

    def tree(self, top: int) -> dict[str, Any]:
        """The turns, in seconds, as what JSON holds."""
        turns = [
            {"speaker": turn.speaker, "start": round(turn.start, 2), "end": round(turn.end, 2)} for turn in self.turns
        ]
        return {"clip": self.clip, "turns": turns}


class Diarizer:
    """SD. Recordings longer than the configuration's chunks are cut as its test set is; from one chunk to the next the
    model does not know who is who."""

    least_clips = 1

    def __init__(self, experiments: Sequence[Experiment], features: Sequence[Features]) -> None:
        (experiment,), (self.features,) = experiments, features
        config = experiment.config["downstream_expert"]
        with tempfile.TemporaryDirectory() as folder, quiet_root_logger():  # it makes folders when it is built
            self.expert = expert_module(experiment.downstream).DownstreamExpert(
                self.features.dim, self.features.rate, downstream_expert=config, expdir=folder
            )
        load_weights(self.expert, experiment.weights["Downstream"], f"the head in {experiment.source}")
        self.expert.to(self.features.device).eval()
        data = experiment.section("datarc")
        self.frame_shift, self.chunk = self.expert.datarc["frame_shift"], data["chunk_size"]
        self.threshold = float(experiment.details.get("threshold", THRESHOLD))
        self.median = int(experiment.details.get("median", MEDIAN))

    def answers(self, clips: Sequence[str | Path]) -> list[Turns]:
        """Who speaks when in each recording (SD)."""
        return [Turns(str(clip), tuple(self._turns(clip))) for clip in clips]

    def _turns(self, clip: str | Path) -> list[Turn]:
        activity = self.activity(recordings.read(clip, recordings.plain), str(clip))
        seconds = self.frame_shift / SAMPLE_RATE
        turns = turns_of(activity, frame_seconds=seconds, threshold=self.threshold, median=self.median)
        return sorted(turns, key=lambda turn: (turn.start, turn.speaker))

    @torch.inference_mode()
    def activity(self, wav: Tensor, name: str) -> np.ndarray:
        """(frames, speakers) probabilities, as s3prl's `test` writes them (downstream/diarization/expert.py)."""
        frames = len(wav) // self.frame_shift
        if frames == 0:
            raise DataError(f"{name} is shorter than a frame of {self.frame_shift} samples")
        edges = [(start, min(start + self.chunk, frames)) for start in range(0, frames, self.chunk)]
        try:
            features = self.features([wav[s * self.frame_shift : e * self.frame_shift] for s, e in edges])
        except (AssertionError, RuntimeError, DataError) as error:
            raise DataError(f"{name}: the upstream cannot compute {len(wav)} samples: {error}") from error
        labels = torch.zeros(len(edges), max(end - start for start, end in edges), 1)
        features, _ = self.expert._match_length(pad_sequence(features, batch_first=True), labels)
        logits = self.expert.model(features)
        kept = [of_chunk[: end - start] for of_chunk, (start, end) in zip(logits, edges, strict=True)]
        return torch.cat(kept).sigmoid().cpu().numpy()
