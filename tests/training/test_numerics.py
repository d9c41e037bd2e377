"""What keeps training steady does what it says: each of these tests fails when its part is taken out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import random_encoder, tiny_config
from training.conftest import in_sections, write_noise
from training.launching import read_state

from pruned_upstream.errors import DataError, PrunedUpstreamError
from pruned_upstream.model import memory
from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.training import parp, pretrain
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.prune import build_objective, run_prune
from pruned_upstream.training.recipe import resolve_recipe


def trainer_of(recipe) -> Trainer:
    batches = Batches(find_corpus(recipe.data.train, min_samples=40), recipe.data, seed=0)
    return Trainer(build_objective(recipe), batches, recipe)


def take(trainer: Trainer, steps: int) -> None:
    for step in range(steps):
        trainer.step(step, trainer.batches[step])
        trainer.done += 1


@pytest.mark.parametrize("limit", [1e-3, 1e3, None])
def test_the_gradient_is_clipped_to_its_norm(recipe, limit: float | None) -> None:
    """What the optimiser was given is the whole gradient, scaled."""
    whole = trainer_of(recipe(**{"optimisation.clip_norm": None}))
    take(whole, 1)
    before = whole.summed.flat.clone()
    trainer = trainer_of(recipe(**{"optimisation.clip_norm": limit}))
    take(trainer, 1)
    scale = min(1.0, limit / before.norm().item()) if limit else 1.0
    assert 1e-3 < before.norm() < 1e3
    torch.testing.assert_close(trainer.summed.flat, before * scale, rtol=1e-4, atol=0)
    (row,) = trainer._gathered
    assert row["gradient_norm"].item() == pytest.approx(before.norm().item())  # what is reported is the one before


@pytest.mark.parametrize("clamp", [2.5, None])
def test_log_alpha_stays_within_its_clamp(recipe, clamp: float | None) -> None:
    options = {"optimisation.gate_learning_rate": 3.0, "optimisation.warmup": 0.0, "gates.clamp": clamp}
    trainer = trainer_of(recipe(**options))
    take(trainer, 3)
    largest = max(alpha.abs().max().item() for alpha in trainer.objective.gates.log_alpha.values())
    assert largest == clamp if clamp else largest > 4.0


def test_nothing_but_matrices_decays(recipe) -> None:
    """Twice the same step, once with decay so strong that it cannot be missed."""
    options = {"optimisation.steps": 1, "optimisation.warmup": 0.0, "optimisation.learning_rate": 0.1}
    plain, decaying = (trainer_of(recipe(**options | {"optimisation.weight_decay": rate})) for rate in (0.0, 5.0))
    start = {name: p.detach().clone() for name, p in plain.objective.modules.named_parameters()}
    take(plain, 1)
    take(decaying, 1)
    pairs = zip(plain.objective.modules.named_parameters(), decaying.objective.modules.named_parameters(), strict=True)
    differing = {name for (name, a), (_, b) in pairs if not torch.equal(a, b)}
    exempt = ("pairing.", "gates.", "lagrangian.")
    wanted = {
        name
        for name, value in start.items()
        if not name.startswith(exempt) and value.numel() > max(value.shape, default=1) and value.abs().sum() > 0
    }
    assert differing == wanted and len(wanted) > 20
    assert not any(name.endswith((".bias", "layer_norm.weight")) for name in differing)


def test_the_first_quantity_that_is_not_finite_is_named(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(recipe(**{"run.log_every": 100}))
    take(trainer, 3)
    names = list(trainer._gathered[1])
    trainer._gathered[1] = {name: torch.tensor(math.nan) for name in names}
    trainer._gathered[2] = {name: torch.tensor(math.inf) for name in names}
    with pytest.raises(PrunedUpstreamError, match=r"^training diverged: distillation is nan at step 2\. No state") as e:
        trainer._report(None)
    assert sum(name in str(e.value) for name in names if "/" in name) == 0
    trainer._gathered = [{name: torch.tensor(1.0) for name in names} | {"gradient_norm": torch.tensor(math.inf)}]
    with pytest.raises(PrunedUpstreamError, match="gradient_norm is inf at step 3"):
        trainer._report(None)


def test_a_teacher_that_overflows_is_not_put_down_to_the_learning_rate(recipe, teacher_file: Path) -> None:
    """Its weights are finite; what it makes of speech is not."""
    teacher = load(teacher_file)
    with torch.no_grad():
        teacher.encoder.layers[1].fc1.weight.mul_(1e30)
    save(teacher_file, teacher)
    with pytest.raises(PrunedUpstreamError, match=r"distillation is nan at step 1, before anything was learned") as e:
        run_prune(recipe(**{"optimisation.steps": 2}))
    assert "learning_rate" not in str(e.value) and "speaker" in str(e.value)


@pytest.mark.parametrize("module", [pretrain, parp])
def test_a_crop_that_memory_has_no_room_for(module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In trainings, too, that hide frames and so go through the encoder in steps of their own."""
    monkeypatch.setattr(memory, "ALWAYS_FINE", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    write_noise(tmp_path / "speech" / "a.wav", 8000)
    (tmp_path / "speech" / "all.trans.txt").write_text("a SO\n")
    save(tmp_path / "teacher.safetensors", random_encoder(tiny_config()))
    values = {"data.train": [str(tmp_path / "speech")], "data.workers": 0, "optimisation.steps": 1}
    values |= {"run.folder": str(tmp_path / "run"), "run.device": "cpu"}
    model = str(tmp_path / "teacher.safetensors")
    with pytest.raises(DataError, match="1 waveform of 0 s: .*data.max_seconds in training"):
        if module is parp:
            parp.run_parp(resolve_recipe(in_sections(values | {"teacher": model}), parp.ParpRecipe))
        else:
            values |= {"masking.front_end_steps": 0}
            pretrain.run_pretrain(resolve_recipe(in_sections(values), pretrain.PretrainRecipe))


def test_weights_that_no_metric_has_shown_do_not_replace_a_good_state(recipe, tmp_path: Path) -> None:
    given = recipe(**{"optimisation.steps": 4, "run.checkpoint_every": 2})
    step = Trainer.step

    def poisoned(trainer: Trainer, number: int, parts) -> None:
        step(trainer, number, parts)
        if number == 3:
            with torch.no_grad():
                trainer.groups[0].parameters[0].view(-1)[0] = math.inf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", poisoned)
        with pytest.raises(PrunedUpstreamError, match="group weights are not finite after step 4; the state of step 2"):
            run_prune(given)
    assert read_state(tmp_path / "run")["step"] == 2
    assert run_prune(given).exists()


@pytest.mark.parametrize("average", ["frames", "utterances"])
def test_the_loss_by_its_definition(recipe, average: str) -> None:
    """Equation 5: the mean over utterances of the sum over pairs of their mean squared errors; or all frames pooled."""
    changes = {"distillation.average": average, "distillation.pairing": "fixed", "data.batch_utterances": 5}
    for accumulation in (1, 2):
        given = recipe(**changes | {"optimisation.accumulation": accumulation})
        corpus = find_corpus(given.data.train, min_samples=40)
        parts = Batches(corpus, given.data, seed=0, accumulation=accumulation)[0]
        objective = build_objective(given)
        with torch.no_grad():
            for map_ in objective.pairing.maps:
                map_.weight.mul_(1.1)
        objective.begin_step(0, parts)
        for part in parts:
            objective.loss(part)
        sums, frames = [], []
        for part in parts:
            objective._kept = None
            encoded = objective._encode(part)
            for number in range(len(part.wavs)):
                living = encoded.weights[number] > 0
                pairs = [
                    (objective.pairing.maps[0](encoded.student[k][number]), encoded.teacher[k][number])
                    for k in objective.pairing.teacher_layers
                ]
                sums.append(sum((a - b)[living].square().mean(-1).sum().item() for a, b in pairs))
                frames.append(int(living.sum()))
        assert len(set(frames)) > 1
        by_utterance = sum(total / count for total, count in zip(sums, frames, strict=True)) / len(sums)
        wanted = by_utterance if average == "utterances" else sum(sums) / sum(frames)
        assert objective.distillation.item() == pytest.approx(wanted, rel=1e-4)
        assert objective.frames.item() == sum(frames)
