"""A finished task that answers: found, put together, and asked about recordings."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, DataError
from .experiment import Experiment, find


class Answer(Protocol):
    """What every kind of answer can do: be printed, and be written as JSON; `top` limits lists of classes."""

    def lines(self, top: int) -> list[str]:
        """What is printed; of several candidates the `top` first ones."""

    def tree(self, top: int) -> dict[str, Any]:
        """What `--json` prints; of several candidates the `top` first ones."""


class Answerer(Protocol):
    """One kind of answer; built from experiments and their features."""

    least_clips: int

    def answers(self, clips: Sequence[str | Path]) -> list[Any]:
        """What the task says about these recordings, in their order."""


@dataclass(frozen=True)
class TrainedTask:
    """A trained task.

    Attributes:
        name: of the task: ks, asr ...
        remarks: what the reader of an answer should know.
    """

    name: str
    answerer: Answerer
    remarks: tuple[str, ...] = ()

    def predict(self, clips: Sequence[str | Path]) -> list[Any]:
        """Answers for the recordings: one each; for SV one per pair; for QbE one for each but the first, the query.

        Raises:
            DataError: a clip cannot be read or is too short, or there are too few.
        """
        if len(clips) < self.answerer.least_clips:
            raise DataError(
                f"{self.name} needs at least {self.answerer.least_clips} recordings, and {len(clips)} came"
                + (": the query, then where to search" if self.name == "qbe" else "")
            )
        return self.answerer.answers(clips)


def load_task(
    place: str | Path,
    *,
    model_file: str | Path | None = None,
    data: str | Path | None = None,
    layer: int | None = None,
    device: str = "cpu",
) -> TrainedTask:
    """A task that was trained, by `pruned-upstream superb` or by hand with s3prl's runner.

    >>> from pruned_upstream.prediction import load_task
    >>> keywords = load_task("runs/superb/compact/ks")
    >>> keywords.predict(["clip.wav"])[0].best()
    'yes'

    Args:
        place: the task's folder in a run folder; an experiment folder or checkpoint of s3prl's runner; for QbE also a
            model file.
        model_file: the upstream's file, where it is not any more where it was.
        data: folder of the corpora, where names of classes or symbols are not any more where they were.
        layer: the hidden state that QbE compares, instead of the experiment's.

    Raises:
        DataError: nothing trained is there, or the names of its classes are lost.
        CheckpointError: a file is not what it should be.
        ConfigError: a task that has no answer, a layer for one that sums them, or a device that is not there.
    """
    from ..run_downstream import chosen_device
    from ..s3prl_plugin.registry import register

    kinds = _answerers()
    device = chosen_device(device)
    register()
    experiments = find(place, layer=layer)
    name = experiments[0].task
    if name not in kinds:
        raise ConfigError(f"{place} was trained on {name}; answers are given for {', '.join(kinds)}")
    if layer is not None:
        if name != "qbe":
            raise ConfigError(f"a layer is chosen for qbe alone; {name} sums its layers with trained weights")
        experiments = [
            dataclasses.replace(each, args={**each.args, "upstream_layer_selection": layer}) for each in experiments
        ]
    if data is not None:
        experiments = [_at(each, name, Path(data)) for each in experiments]
    features = _features(experiments, model_file, device)
    remarks = tuple(dict.fromkeys(remark for each in experiments for remark in each.remarks))
    if len(experiments) > 1:
        remarks += (f"the mean of {len(experiments)} trainings, one per fold",)
    return TrainedTask(name, kinds[name](experiments, features), remarks)


def _answerers() -> Mapping[str, Callable[..., Answerer]]:
    """Task -> what answers for it."""
    from . import classes, occurrences, similarity, text, turns

    return {
        "ks": classes.Classifier,
        "sid": classes.Classifier,
        "ic": classes.Classifier,
        "er": classes.Classifier,
        "asr": text.Transcriber,
        "pr": text.Transcriber,
        "sf": text.Transcriber,
        "sd": turns.Diarizer,
        "sv": similarity.Verifier,
        "qbe": occurrences.Searcher,
    }


def _features(experiments: Sequence[Experiment], model_file: str | Path | None, device: str) -> list[Any]:
    """One for each experiment; all share an upstream, except those that finetuned it."""
    from .trained import build_features, build_upstream

    shared = build_upstream(experiments[0], model_file=model_file, device=device)
    found = []
    for number, experiment in enumerate(experiments):
        own = number > 0 and "Upstream" in experiment.weights
        upstream = build_upstream(experiment, model_file=model_file, device=device) if own else shared
        found.append(build_features(experiment, upstream, device))
    return found


def _at(experiment: Experiment, task: str, data: Path) -> Experiment:
    """The experiment with the paths of its configuration led to corpora elsewhere, as a run would lead them."""
    from ..superb.configuration import merge
    from ..superb.layout import Data
    from ..superb.preparation import prepare

    config = copy.deepcopy(dict(experiment.config))
    test_fold = config.get("downstream_expert", {}).get("datarc", {}).get("test_fold")
    merge(config, prepare(task, Data(data)))
    if task == "er":
        config["downstream_expert"]["datarc"]["test_fold"] = test_fold
    return dataclasses.replace(experiment, config=config)
