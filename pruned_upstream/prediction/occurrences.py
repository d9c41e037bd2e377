"""Where a query is said in a recording: QbE's dynamic time warping, and the stretch that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, DataError
from ..model.config import SAMPLE_RATE
from . import recordings
from .experiment import Experiment
from .trained import Features, expert_module

FEWEST_FRAMES = 5  # of a query: s3prl gives shorter ones no score (downstream/quesst14_dtw/expert.py)


@dataclass(frozen=True)
class Occurrence:
    """The best place of the query in one recording, in seconds; `score` is the negative cost, higher is likelier."""

    query: str
    clip: str
    score: float
    start: float
    end: float

    def lines(self, top: int) -> list[str]:
        """Where the query was found, in seconds, and how surely."""
        return [f"{self.clip}  {self.start:.2f} to {self.end:.2f} s  score {self.score:.4f}"]

    def tree(self, top: int) -> dict[str, Any]:
        """The same as what JSON holds."""
        place = {"start": round(self.start, 2), "end": round(self.end, 2)}
        return {"query": self.query, "clip": self.clip, "score": self.score, **place}


class Searcher:
    """QbE: the first clip is the query, the others are searched, the likeliest comes first.

    Features are normalised over all clips that are given, as s3prl does over its data set.
    """

    least_clips = 2

    def __init__(self, experiments: Sequence[Experiment], features: Sequence[Features]) -> None:
        (experiment,), (self.features,) = experiments, features
        self.config = experiment.config["downstream_expert"]
        self.warping = experiment.section("dtwrc")
        self.distance = self._distance(experiment)

    def _distance(self, experiment: Experiment) -> Any:
        from scipy.spatial import distance

        method, module = self.warping["dist_method"], expert_module(experiment.downstream)
        if method in ("cosine_exp", "cosine_neg_log"):
            return getattr(module, method)
        if not hasattr(distance, str(method)):
            raise CheckpointError(f"{experiment.source} asks for the distance {method!r}, which there is not")
        return partial(distance.cdist, metric=method)

    @torch.inference_mode()
    def answers(self, clips: Sequence[str | Path]) -> list[Occurrence]:
        """The first recording searched for in each other (QbE): the best place of each, by its score."""
        features = [self._features(clip) for clip in clips]
        if self.config.get("feature_normalization"):
            everything = torch.cat(features)
            deviation = torch.clamp(everything.std(0), 1e-9)
            features = [(of_clip - everything.mean(0)) / deviation for of_clip in features]
        query, *others = [of_clip.numpy() for of_clip in features]
        if len(query) < FEWEST_FRAMES:
            raise DataError(f"the query {clips[0]} is too short: {len(query)} frames, and {FEWEST_FRAMES} are needed")
        found = [self._occurrence(query, other, clips[0], clip) for other, clip in zip(others, clips[1:], strict=True)]
        return sorted(found, key=lambda occurrence: -occurrence.score)

    def _features(self, clip: str | Path) -> torch.Tensor:
        features = self.features.of(recordings.read(clip, recordings.searched), str(clip)).cpu()
        silence = self.config.get("silence_frame")
        return features if silence is None else features[features.argmax(1) != silence]

    def _occurrence(self, query: np.ndarray, other: np.ndarray, name: str | Path, clip: str | Path) -> Occurrence:
        """As `match` of s3prl's downstream/quesst14_dtw/expert.py, with the path it leaves out."""
        from dtw import dtw

        distances = self.distance(query, other)
        if self.warping["minmax_norm"]:
            low, high = distances.min(1, keepdims=True), distances.max(1, keepdims=True)
            distances = (distances - low) / np.clip(high - low, 1e-9, np.inf)
        anywhere = bool(self.warping["subsequence"])
        try:
            path = dtw(distances, step_pattern=self.warping["step_pattern"], open_begin=anywhere, open_end=anywhere)
        except ValueError as error:
            raise DataError(f"the query {name} cannot be warped onto {clip}: {error}") from error
        seconds = self.features.rate / SAMPLE_RATE
        start, end = float(path.index2[0]) * seconds, float(path.index2[-1] + 1) * seconds
        return Occurrence(str(name), str(clip), -float(path.normalizedDistance), start, end)
