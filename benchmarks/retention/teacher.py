"""The teacher: trained from the demo's by `teacher.yaml`, and what it predicted hidden phones with."""

from __future__ import annotations

from pathlib import Path

import torch

from pruned_upstream.miniature.demo import TEACHER as START
from pruned_upstream.training.pretrain import MODEL_FILE, PretrainRecipe, run_pretrain
from pruned_upstream.training.recipe import load_recipe
from pruned_upstream.training.state import STATE_FILE, load_state

from .questions import Predictor
from .speech import taught


def trained(root: Path) -> Path:
    """The model file under `root`; an interrupted training goes on."""
    folder = root / "teacher"
    if not (folder / MODEL_FILE).exists():
        speech = taught(root / "taught")
        overrides = [f"start={START}", f"data.train={speech}", f"run.folder={folder}", "run.device=cpu"]
        run_pretrain(load_recipe(Path(__file__).with_name("teacher.yaml"), PretrainRecipe, overrides))
    return folder / MODEL_FILE


def predictor(root: Path) -> Predictor:
    """What a model file leaves out."""
    state = load_state(root / "teacher" / STATE_FILE, device=torch.device("cpu"))["objective"]
    phones = (root / "taught" / "phones.txt").read_text().split()
    head = (state[f"heads.units.{name}"][: len(phones)] for name in ("weight", "bias"))
    return Predictor(state["mask_emb"], *head, phones)
