"""Upstream, featurizer and head of one experiment, put together as s3prl's runner does (downstream/runner.py).

Heads are s3prl's own classes. Where an expert can be built without its corpus (PR, SF, ASR, SD) it is the expert;
elsewhere it is the expert's layers, since the constructor reads the training data.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, DataError
from ..model.hub import local_file
from .experiment import Experiment


class Features(nn.Module):
    """Frozen upstream and trained featurizer: a waveform's features for the head."""

    featurizer: Any  # s3prl's

    def __init__(self, upstream: nn.Module, featurizer: nn.Module, device: str) -> None:
        super().__init__()
        self.upstream, self.featurizer, self.device = upstream, featurizer, device

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.featurizer.output_dim

    @property
    def rate(self) -> int:
        """Samples per frame."""
        return self.featurizer.downsample_rate

    def forward(self, wavs: list[Tensor]) -> list[Tensor]:
        """(samples,) each -> (frames, dim) each."""
        wavs = [wav.to(self.device) for wav in wavs]
        return self.featurizer(wavs, self.upstream(wavs))

    def of(self, wav: Tensor, name: str, *, at_least: int = 1) -> Tensor:
        """(frames, dim) of one clip.

        Raises:
            DataError: the clip, called `name`, has fewer than `at_least` frames.
        """
        frames = round(len(wav) / self.rate)
        if frames >= at_least:
            try:
                (features,) = self([wav])
            except (AssertionError, RuntimeError, DataError) as error:
                raise DataError(f"{name}: the upstream cannot compute {len(wav)} samples: {error}") from error
            frames = len(features)
        if frames < at_least:
            raise DataError(
                f"{name} is too short: {frames} frames of {self.rate} samples, and this task needs {at_least}"
            )
        return features


def build_upstream(experiment: Experiment, *, model_file: str | Path | None, device: str) -> nn.Module:
    """The upstream that the experiment names, or another file of it.

    Raises:
        ConfigError: s3prl has no such upstream.
        CheckpointError: its file is gone, or is not the one that was finetuned.
    """
    from s3prl import hub

    args = experiment.args
    name, file = args.get("upstream"), model_file or args.get("upstream_ckpt")
    if args.get("from_hf_hub") or name not in hub.options():
        raise ConfigError(f"{experiment.source} was trained on the upstream {name}, which s3prl does not have here")
    if file is not None and "://" not in str(file):
        file = local_file(file)
        if not file.exists():
            raise CheckpointError(
                f"the upstream's file {file}, which {experiment.source} was trained on, is not there; name its place "
                "with -k"
            )
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers
        upstream = getattr(hub, str(name))(
            ckpt=None if file is None else str(file), model_config=args.get("upstream_model_config"), refresh=False
        )
    if "Upstream" in experiment.weights:
        load_weights(upstream, experiment.weights["Upstream"], f"the finetuned upstream in {experiment.source}")
    return upstream.to(device).eval()


def build_features(experiment: Experiment, upstream: nn.Module, device: str) -> Features:
    """Upstream and the trained weights over its hidden states.

    Raises:
        ConfigError: the upstream has no hidden state of the number that is asked for.
        CheckpointError: the weights are those of an upstream with more or fewer.
    """
    from s3prl.upstream.interfaces import Featurizer

    args = experiment.args
    layer = args.get("upstream_layer_selection")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it tells of itself, once for each of ER's folds
            featurizer = Featurizer(
                upstream,
                feature_selection=args.get("upstream_feature_selection") or "hidden_states",
                layer_selection=layer,
                upstream_device=device,
                normalize=bool(args.get("upstream_feature_normalize")),
            )
    except IndexError as error:
        raise ConfigError(f"the upstream has no hidden state {layer}; they are numbered from 0") from error
    if "Featurizer" in experiment.weights:
        load_weights(featurizer, experiment.weights["Featurizer"], f"the featurizer in {experiment.source}")
    return Features(upstream, featurizer.to(device), device).eval()


def expert_module(downstream: str) -> Any:
    """s3prl's module of a task; the classes that a configuration can name are its attributes."""
    return importlib.import_module(f"s3prl.downstream.{downstream}.expert")


def chosen_class(module: Any, name: Any, experiment: Experiment) -> type[nn.Module]:
    """The class that a configuration chooses by name.

    Raises:
        CheckpointError: s3prl has no such model.
    """
    found = getattr(module, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CheckpointError(f"{experiment.source} chooses the model {name!r}, which s3prl does not have")
    return found


class Projected(nn.Module):
    """The layers of s3prl's experts for one answer per recording (KS, SID, IC, ER): a projection and a chosen model."""

    def __init__(self, experiment: Experiment, features: Features, outputs: int) -> None:
        super().__init__()
        layers = experiment.section("modelrc")
        cls = chosen_class(expert_module(experiment.downstream), layers.get("select"), experiment)
        self.projector = nn.Linear(features.dim, layers["projector_dim"])
        self.model = cls(input_dim=layers["projector_dim"], output_dim=outputs, **(layers.get(layers["select"]) or {}))

    def forward(self, features: Tensor) -> Tensor:  # (T, dim) -> (outputs,)
        """Features (T, d) of one recording to the logits of its classes."""
        lengths = torch.tensor([len(features)], dtype=torch.int32, device=features.device)
        logits, _ = self.model(self.projector(features.unsqueeze(0)), lengths)
        return logits[0]


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], what: str, *, unused: Collection[str] = ()) -> None:
    """Load a state dict to the last key; what training alone needs may be named in `unused`, by its first part.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    needed = {key: value for key, value in weights.items() if key.partition(".")[0] not in unused}
    try:
        module.load_state_dict(needed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{what} does not fit the model that its configuration names: {reason}") from error


def import_sox() -> None:
    """s3prl's SV imports pysox, which has the shell look for a program that is not needed; the shell complains."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        importlib.import_module("sox")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Without what s3prl's experts log while they are built."""
    root = logging.getLogger()

    def nothing(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(nothing)
    try:
        yield
    finally:
        root.removeFilter(nothing)
