"""Two quick questions to a representation: which phone is this frame, which keyword is this clip.

A logistic regression answers both, trained on the training voices of the miniature corpora and tested on others. The
probes compare small teachers with each other and with controls; they are no benchmark of anything else.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from pruned_upstream.model.encoder import Encoder

Representation = Callable[[Tensor], Tensor]  # waveform (S,) at 16 kHz -> frames (T, d)

SAMPLE_RATE = 16_000
FRAMES_APART = 4  # neighbouring frames say nearly the same
KEYWORDS = "yes no up down left right on off stop go".split()


def layer(encoder: Encoder, number: int = -1) -> Representation:
    """The frames of one hidden state; 0 is what the transformer reads, -1 its output."""

    @torch.no_grad()
    def represent(waveform: Tensor) -> Tensor:
        return encoder.extract([waveform]).hidden_states[number][0]

    encoder.eval()
    return represent


def phone_accuracy(represent: Representation, corpora: Path, *, rate: int = 320) -> float:
    """Share of test frames whose phone is named, without stress; in per cent.

    Args:
        corpora: the root that `building.build` filled for `pr`.
        rate: samples per frame.
    """
    splits = ("train-clean-100", "test-clean")
    return _accuracy(*(_phone_frames(represent, corpora / "LibriSpeech", split, rate) for split in splits))


def keyword_accuracy(represent: Representation, corpora: Path) -> float:
    """Share of test clips whose keyword is named from the mean over frames; in per cent.

    Args:
        corpora: the root that `building.build` filled for `ks`.
    """
    splits = ("speech_commands_v0.01", "speech_commands_test_set_v0.01")
    return _accuracy(*(_clip_means(represent, corpora / split) for split in splits))


def _accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return 100 * float(classifier.fit(*train).score(*test))


def _phone_frames(represent: Representation, root: Path, split: str, rate: int) -> tuple[np.ndarray, np.ndarray]:
    segments: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    with open(root / "alignments" / f"{split}.tsv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            segments[row["utterance"]].append((float(row["start"]), float(row["end"]), row["phone"].rstrip("012")))
    frames, phones = [], []
    for path in sorted((root / split).rglob("*.flac")):
        frame_of_utterance = represent(_read(path)).numpy()
        for number in range(0, len(frame_of_utterance), FRAMES_APART):
            middle = (number + 0.5) * rate / SAMPLE_RATE
            spoken = [phone for start, end, phone in segments[path.stem] if start <= middle < end]
            if spoken:
                frames.append(frame_of_utterance[number])
                phones.append(spoken[0])
    return np.stack(frames), np.array(phones)


def _clip_means(represent: Representation, root: Path) -> tuple[np.ndarray, np.ndarray]:
    clips = list(_keyword_clips(root))
    means = [represent(_read(path)).mean(0).numpy() for path, _ in clips]
    return np.stack(means), np.array([word for _, word in clips])


def _keyword_clips(root: Path) -> Iterator[tuple[Path, str]]:
    """Clips of the ten keywords; silence and unknown words are left to the real task."""
    for word in KEYWORDS:
        yield from ((path, word) for path in sorted((root / word).glob("*.wav")))


def _read(path: Path) -> Tensor:
    samples, _ = soundfile.read(path, dtype="float32")
    return torch.from_numpy(samples)
