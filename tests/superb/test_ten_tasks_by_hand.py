"""docs/ten-tasks.md: every block as it stands there, on miniature corpora, and its figure against `superb`'s."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import random_encoder, tiny_config

from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS
from pruned_upstream.resources import downstream_config_path
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.running import Settings, run
from pruned_upstream.superb.tasks import TASKS

pytest.importorskip("s3prl")

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "ten-tasks.md"
STEPS = 4
# 320 samples per frame, as s3prl's featurizer wants it
NARROW_CONV = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
FIGURES = {
    "pr": {"per": "test per: "},
    "asr": {"wer": "test-clean wer: "},
    "qbe": {"mtwv": "mtwv: "},
    "sv": {"eer": "sv-voxceleb1/test-EER: "},
    "sd": {"der": "der: "},
    "sf": {"f1": "test slot_type_f1: ", "cer": "test slot_value_cer: "},
}


def blocks() -> dict[str, str]:
    return dict(re.findall(r"^```sh title=\"(\w+)\"\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def test_the_page_has_every_task():
    assert list(blocks()) == ["setup", *TASKS]


@pytest.fixture
def place(tmp_path, tiny_root, monkeypatch) -> Path:
    """A folder as the page wants it: the corpora in `data`, a model, `run_downstream.py` on the PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").symlink_to(tiny_root)
    save(tmp_path / "compact.safetensors", random_encoder(tiny_config(conv_layers=NARROW_CONV)))
    (tmp_path / "bin").mkdir()
    for name, module in {"run_downstream.py": "-m pruned_upstream.run_downstream", "python": ""}.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        program.chmod(0o755)
    return tmp_path


def bash(place: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The page's set-up and what follows it, typed in the folder `place`."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(place / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(place),
        **environment,
    }
    script = "\n".join(["set -e", blocks()["setup"], script])
    return subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


def is_path(value: Any) -> bool:
    return any(isinstance(item, str) and "/" in item for item in (value if isinstance(value, list) else [value]))


def other_settings(folder: Path, task: str) -> str:
    """`-o` with what the run's configuration has otherwise than the shipped one, but for paths."""
    shipped = dict(flat(yaml.safe_load(downstream_config_path(task).read_text())))
    wanted = dict(flat(yaml.safe_load((folder / task / "config.yaml").read_text())))
    if task == "pr":  # the run writes lists of the same recordings
        for key in ("csv_dir", "train", "dev", "test"):
            del wanted[f"downstream_expert.corpus.{key}"]
    changed = {
        key: value
        for key, value in wanted.items()
        if value != shipped.get(key) and not is_path(value) and not key.endswith("test_fold")
    }
    return "-o " + ",,".join(f"config.{key}={value!r}".replace(" ", "") for key, value in changed.items())


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_block_gives_the_figure_of_superb(place, task):
    report = run(
        Settings(
            place / "run",
            upstream="pruned_upstream",
            checkpoint=place / "compact.safetensors",
            data=Data(place / "data"),
            tasks=(task,),
            steps=STEPS,
            short=True,
            device="cpu",
            threads=1,
            loader_workers=0,
        )
    )
    assert report.failures == {}
    result = report.results.tasks[task]

    more = other_settings(place / "run", task) if TASKS[task].steps else ""
    steps = sorted(int(path.stem.partition("-")[2]) for path in (place / "run" / task).glob("train/states-*.ckpt"))
    ended = bash(place, f'MORE="{more}"\n{blocks()[task]}', LAYERS="3", STEPS=" ".join(map(str, steps)))
    assert ended.returncode == 0, ended.stderr[-3000:]
    for metric, label in FIGURES.get(task, {"acc": "test acc: "}).items():
        printed = [float(line.removeprefix(label)) for line in ended.stdout.splitlines() if line.startswith(label)]
        assert printed, ended.stdout[-2000:]
        figure = {"sv": min(printed), "er": sum(printed[-5:]) / 5}.get(task, printed[-1])
        if metric != "wer":
            figure *= 100
        print(f"{task} {metric}: by hand {figure:.6f}, superb {result.metrics[metric]:.6f}")
        assert figure == pytest.approx(result.metrics[metric], rel=1e-12)


@pytest.mark.slow
def test_a_model_that_was_finetuned_comes_back(place):
    """`-f` in the page's call for keyword spotting: `convert` gives the encoder that the checkpoint holds."""
    call = "run_downstream.py -m train $UP -f -d speech_commands -c ks -p runs/ks --device cpu"
    steps = "-o config.runner.total_steps=2,,config.runner.save_step=2,,config.runner.eval_step=2"
    fewer = ",,config.downstream_expert.datarc.num_workers=0"
    convert = f"{sys.executable} -m pruned_upstream.cli convert runs/ks/states-2.ckpt finetuned.safetensors"
    ended = bash(place, f"{call} {steps}{fewer}\n{convert}")
    assert ended.returncode == 0, ended.stderr[-3000:]
    saved = torch.load(place / "runs" / "ks" / "states-2.ckpt", weights_only=False)["Upstream"]
    back, before = (load(place / f"{name}.safetensors").state_dict() for name in ("finetuned", "compact"))
    assert {f"model.{name}" for name in back} == saved.keys()
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in back.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in back.items())


@pytest.mark.slow
def test_an_evaluation_follows_a_model_that_has_moved(place):
    steps = "-o config.runner.total_steps=2,,config.runner.save_step=2,,config.runner.eval_step=2"
    more = f"--device cpu {steps},,config.downstream_expert.datarc.num_workers=0"
    before = bash(place, f'MORE="{more}"\n{blocks()["ks"]}')
    assert before.returncode == 0, before.stderr[-3000:]

    (place / "elsewhere").mkdir()
    (place / "compact.safetensors").rename(place / "elsewhere" / "moved.safetensors")
    evaluate = "run_downstream.py -m evaluate -e $(best runs/ks) --device cpu"
    lost = bash(place, evaluate)
    assert lost.returncode == 2 and "compact.safetensors" in lost.stderr and "Traceback" not in lost.stderr

    found = bash(place, f"{evaluate} -k elsewhere/moved.safetensors")
    assert found.returncode == 0, found.stderr[-3000:]
    (figure,) = set(re.findall("^test acc: .*$", before.stdout, re.MULTILINE))
    assert figure in found.stdout.splitlines()
