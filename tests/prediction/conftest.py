"""Every task trained by s3prl's own runner on the miniature corpora: random heads, real experts, real checkpoints."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
import yaml
from tiny import random_encoder, tiny_config

from pruned_upstream import run_downstream
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS
from pruned_upstream.superb import configuration
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.preparation import prepare
from pruned_upstream.superb.tasks import TASKS

# 320 samples per frame, as s3prl's featurizer wants it
NARROW_CONV = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
SMALL = {
    "asr": {"downstream_expert.modelrc.RNNs.dim": [32]},
    "sf": {"downstream_expert.model.RNNs.dim": [32]},
}


@dataclass(frozen=True)
class Trained:
    """A task: its experiment folder with a checkpoint and s3prl's own predictions for the test set."""

    task: str
    folder: Path
    checkpoint: Path
    config: dict[str, Any]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What s3prl's tasks are given, and keep, in a place of this session's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "compact.safetensors"
    save(path, random_encoder(tiny_config(conv_layers=NARROW_CONV)))
    return path


@pytest.fixture(scope="session")
def trained(
    tiny_root: Path, cache: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    """trained("ks") -> that task, made once; `options` are more of s3prl's arguments."""
    pytest.importorskip("s3prl")
    made: dict[tuple[str, ...], Trained] = {}

    def make(task: str, *options: str) -> Trained:
        if (task, *options) not in made:
            folder = tmp_path_factory.mktemp(task)
            made[task, *options] = _through_s3prl(task, options, tiny_root, model_file, folder)
        return made[task, *options]

    return make


def _through_s3prl(task: str, options: tuple[str, ...], data: Path, model: Path, folder: Path) -> Trained:
    """What `run_downstream.py` does, without the steps between building a model and saving it."""
    from pruned_upstream.s3prl_plugin.registry import register

    register()
    from s3prl.downstream.runner import Runner
    from s3prl.run_downstream import get_downstream_args
    from s3prl.utility.helper import get_model_state

    config, _ = configuration.resolve(TASKS[task], prepare(task, Data(data)), short=True, loader_workers=0)
    for key, value in SMALL.get(task, {}).items():
        configuration.assign(config, key, value)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    mode = "evaluate" if task == "qbe" else "train"
    line = ["-m", mode, "-u", "pruned_wavlm", "-k", str(model), "-d", TASKS[task].downstream]
    line += ["-c", str(folder / "config.yaml"), "-p", str(folder), "-t", TASKS[task].test_split, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_downstream.py", *run_downstream.prepare([*line, *options])])
        args, config, _ = get_downstream_args()
    for kind, tree in (("args", vars(args)), ("config", config)):
        (folder / f"{kind}_2026-01-01-00-00-00.yaml").write_text(yaml.dump(tree))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    with joblib.parallel_config(backend="threading", n_jobs=1):  # SV's lengths; processes would import torch anew
        runner = Runner(args, config)
    checkpoint = folder / (TASKS[task].best_checkpoint or "states-4.ckpt")
    if mode == "train":
        with torch.no_grad():
            runner.featurizer.model.weights.normal_()  # so that the layers do not weigh the same
        states = {entry.name: get_model_state(entry.model) for entry in runner.all_entries if entry.trainable}
        torch.save({"Optimizer": {}, "Step": 4, "Epoch": 0, "Args": args, "Config": config, **states}, checkpoint)
    runner.evaluate()
    return Trained(task, folder, checkpoint, config)


@pytest.fixture
def clips(tiny_root: Path) -> Callable[..., list[Path]]:
    """clips("SNIPS/test") -> the recordings below a folder of the corpora."""

    def below(folder: str) -> list[Path]:
        return [Path(where, name) for where, _, names in sorted(os.walk(tiny_root / folder)) for name in sorted(names)
                if name.endswith((".wav", ".flac"))]  # fmt: skip

    return below
