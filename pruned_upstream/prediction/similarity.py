"""How alike the voices of two recordings are: SV's cosine of two x-vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import recordings
from .experiment import Experiment
from .trained import Features, expert_module, import_sox, load_weights

TDNN_FRAMES = 14  # that the layers of an x-vector take from a recording (s3prl, downstream/sv_voxceleb1/expert.py)


@dataclass(frozen=True)
class Similarity:
    """Of two clips: 1 for one and the same voice, about 0 for strangers."""

    clip: str
    other: str
    cosine: float

    def lines(self, top: int) -> list[str]:
        """Both recordings and their cosine."""
        return [f"{self.clip}  {self.other}  {self.cosine:.4f}"]

    def tree(self, top: int) -> dict[str, Any]:
        """The same as what JSON holds."""
        return {"clip": self.clip, "other": self.other, "similarity": self.cosine}


class SpeakerModel(nn.Module):
    """The layers of s3prl's expert that make a recording a vector."""

    def __init__(self, experiment: Experiment, features: Features) -> None:
        super().__init__()
        layers, module = experiment.section("modelrc"), expert_module(experiment.downstream)
        options = layers["module_config"][layers["module"]]
        self.taken = TDNN_FRAMES if layers["module"] == "XVector" else 0
        self.connector = nn.Linear(features.dim, layers["input_dim"])
        self.model = module.Model(
            input_dim=layers["input_dim"],
            agg_dim=options.get("agg_dim", layers["input_dim"]),
            agg_module_name=layers["agg_module"],
            module_name=layers["module"],
            hparams=options,
            utterance_module_name=layers["utter_module"],
        )

    def forward(self, features: Tensor) -> Tensor:  # (T, dim) -> (d,) of length 1
        """Features (T, d) of one recording to its speaker vector."""
        unmasked = features.new_zeros(1, len(features) - self.taken)
        vector = self.model.inference(self.connector(features.unsqueeze(0)), unmasked)
        return nn.functional.normalize(vector, dim=-1)[0]


class Verifier:
    """SV: every pair of the clips."""

    least_clips = 2

    def __init__(self, experiments: Sequence[Experiment], features: Sequence[Features]) -> None:
        import_sox()
        from s3prl.downstream.sv_voxceleb1.dataset import EFFECTS

        (experiment,), (self.features,) = experiments, features
        self.head = SpeakerModel(experiment, self.features)
        load_weights(
            self.head,
            experiment.weights["Downstream"],
            f"the head in {experiment.source}",
            unused=("objective", "best_score"),  # of the training speakers, and of training
        )
        self.head.to(self.features.device).eval()
        self.reader = lambda path: recordings.through(path, EFFECTS)  # silence is cut

    @torch.inference_mode()
    def answers(self, clips: Sequence[str | Path]) -> list[Similarity]:
        """How alike the speakers of each pair of recordings are (SV)."""
        vectors = [self._vector(clip) for clip in clips]
        pairs = itertools.combinations(zip(clips, vectors, strict=True), 2)
        return [
            Similarity(str(clip), str(other), float(nn.functional.cosine_similarity(vector, its, dim=-1)))
            for (clip, vector), (other, its) in pairs
        ]

    def _vector(self, clip: str | Path) -> Tensor:
        wav = recordings.read(clip, self.reader)
        # two frames are the fewest that have a deviation
        return self.head(self.features.of(wav, str(clip), at_least=self.head.taken + 2))
