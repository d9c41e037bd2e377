"""CTC finetuning with pruning, from a teacher and transcribed recordings to a sparse model file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors import safe_open
from tiny import SHAPES, random_encoder, tiny_config
from training.conftest import in_sections, write_noise
from training.launching import ctrl_c_after, finish, launch, read_metrics, read_state

from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.model.checkpoint import load, read_header, read_masks, save
from pruned_upstream.parp.masks import magnitude_masks, prunable_weights, sparsity_of, zeros
from pruned_upstream.parp.rounds import METHODS, MODULES
from pruned_upstream.training import loop
from pruned_upstream.training import parp as parp_training
from pruned_upstream.training.parp import ParpRecipe, Recogniser, run_parp
from pruned_upstream.training.recipe import load_recipe, resolve_recipe

TEXTS = ("A CAT", "TEA", "IT'S", "SO", "A", "BE", "OX")
LENGTHS = (2400, 1711, 900, 2000, 1333, 3100, 1640)
PRUNABLE = 3 * (4 * 24 * 24 + 2 * 24 * 40)
STEPS = 8


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    for number, samples in enumerate(LENGTHS):
        write_noise(folder / f"{number}.wav", samples, seed=number)
    lines = [f"{number} {text}" for number, text in enumerate(TEXTS)]
    (folder / "all.trans.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def finetuning(tmp_path: Path, speech: Path, teacher_file: Path) -> Callable[..., ParpRecipe]:
    """finetuning(**{"parp.method": "mpi"}) -> a recipe over the tiny teacher and the recordings."""

    def make(**changes: Any) -> ParpRecipe:
        values = {
            "teacher": str(teacher_file),
            "data.train": str(speech),
            "data.batch_utterances": 3,
            "data.workers": 0,
            "parp.sparsity": 0.6,
            "parp.every": 2,
            "masking.frames": 0.3,
            "masking.frame_span": 2,
            "masking.channel_span": 4,
            "dropout.layerdrop": 0.2,
            "optimisation.steps": STEPS,
            "optimisation.learning_rate": 0.01,
            "optimisation.frozen": 0.25,
            "run.folder": str(tmp_path / "run"),
            "run.device": "cpu",
            "run.log_every": 1,
            "run.checkpoint_every": 2,
        } | changes
        return resolve_recipe(in_sections(values), ParpRecipe)

    return make


def assert_same_files(a: Path, b: Path) -> None:
    for name in ("parp.safetensors", "head.safetensors"):
        with safe_open(a / name, framework="pt") as one, safe_open(b / name, framework="pt") as other:
            assert set(one.keys()) == set(other.keys())
            for key in one.keys():
                assert torch.equal(one.get_tensor(key), other.get_tensor(key)), key


def test_whisper_is_finetuned_at_the_recordings_own_length(finetuning, tmp_path: Path) -> None:
    path = tmp_path / "whisper.safetensors"
    save(path, random_encoder(SHAPES["whisper_own_length"]))
    masks = read_masks(run_parp(finetuning(teacher=str(path))))
    assert round(sparsity_of(masks), 2) == 0.6
    save(path, random_encoder(SHAPES["whisper"]))
    with pytest.raises(ConfigError, match="--own-length"):
        run_parp(finetuning(**{"teacher": str(path), "run.folder": str(tmp_path / "other")}))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_its_sparsity_to_the_weight(finetuning, tmp_path: Path, method: str) -> None:
    path = run_parp(finetuning(**{"parp.method": method, "parp.rounds": 2}))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    target = 0.0 if method == "dense" else 0.6
    encoder = load(path)
    weights = prunable_weights(encoder, MODULES)
    gone = sum(int((weight == 0).sum()) for weight in weights.values())
    assert gone == report["pruned"] == zeros(target, PRUNABLE)
    assert report["prunable"] == PRUNABLE
    assert report["matrices"] == {name: int((w == 0).sum()) / w.numel() for name, w in weights.items()}
    assert report["sparsity"] == gone / PRUNABLE
    rounds = sorted(folder.name for folder in (tmp_path / "run").glob("round*"))
    assert len(rounds) == {"omp": 2, "imp": 3}.get(method, 0)
    steps = [row["step"] for folder in rounds or ["."] for row in read_metrics(tmp_path / "run" / folder)]
    assert len(steps) == STEPS  # the same budget for every method
    assert load_recipe(tmp_path / "run" / "recipe.yaml", ParpRecipe).parp.method == method


def test_the_convolutions_stay_and_the_rest_learns_after_the_head(
    finetuning, teacher_file: Path, tmp_path: Path
) -> None:
    before = load(teacher_file).state_dict()
    run_parp(finetuning(**{"parp.method": "dense", "optimisation.frozen": 0.9, "optimisation.steps": 7}))
    state = read_state(tmp_path / "run")["objective"]["recogniser"]  # 6 of 7 updates frozen
    run_parp(finetuning(**{"parp.method": "dense", "run.folder": str(tmp_path / "longer")}))
    after = load(tmp_path / "longer" / "parp.safetensors").state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and not any(name.startswith("feature_extractor") for name in changed)
    assert "post_extract_proj.weight" in changed and "encoder.layers.0.fc1.weight" in changed
    moved = max((state[f"encoder.{name}"] - tensor).abs().max().item() for name, tensor in before.items())
    assert 0 < moved <= 0.01  # one update at the end of the schedule


def test_weights_revive_in_parp_and_not_in_mpi(finetuning, teacher_file: Path, tmp_path: Path) -> None:
    first = magnitude_masks(prunable_weights(load(teacher_file), MODULES), 0.6)

    def revived(method: str) -> int:
        changes = {"parp.method": method, "optimisation.learning_rate": 0.1, "run.folder": str(tmp_path / method)}
        masks = read_masks(run_parp(finetuning(**changes)))
        assert sparsity_of(masks) == zeros(0.6, PRUNABLE) / PRUNABLE
        return sum(int((mask & ~first[name]).sum()) for name, mask in masks.items())

    assert revived("mpi") == 0
    assert revived("parp") > 0
    rows = read_metrics(tmp_path / "parp")
    assert [row["revived"] > 0 for row in rows][:3] == [False, False, False]  # two frozen updates, then two to learn in
    assert max(row["revived"] for row in rows) > 0
    assert all(row["revived"] == 0 for row in read_metrics(tmp_path / "mpi"))


def test_random_masks_come_from_the_seed(finetuning, tmp_path: Path) -> None:
    a, b = (
        read_masks(run_parp(finetuning(**{"parp.method": "rpi", "run.seed": s, "run.folder": str(tmp_path / str(s))})))
        for s in (0, 1)
    )
    assert not all(torch.equal(a[name], b[name]) for name in a)


def test_the_mask_of_another_run(finetuning, tmp_path: Path) -> None:
    found = run_parp(finetuning(**{"run.folder": str(tmp_path / "a")}))
    options = {"parp.method": "mpi", "parp.mask": str(found), "run.seed": 3}
    taken = run_parp(finetuning(**options | {"run.folder": str(tmp_path / "b")}))
    masks, others = read_masks(taken), read_masks(found)
    assert all(torch.equal(masks[name], mask) for name, mask in others.items())
    with pytest.raises(ConfigError, match=r"sparsity of 0\.6000 and the run starts with 0\.5000"):
        run_parp(finetuning(**options | {"parp.sparsity": 0.5, "run.folder": str(tmp_path / "c")}))


@pytest.mark.parametrize("method", ["parp_p", "imp"])
def test_an_interrupted_run_ends_with_the_same_bits(
    finetuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = {"parp.method": method, "parp.rounds": 2, "run.checkpoint_every": 100}
    whole = run_parp(finetuning(**options | {"run.folder": str(tmp_path / "whole")}))
    stopped = finetuning(**options | {"run.folder": str(tmp_path / "stopped")})
    with ctrl_c_after(5):
        run_parp(stopped)
    assert not (tmp_path / "stopped" / "parp.safetensors").exists()
    resumed = run_parp(stopped)
    assert_same_files(resumed.parent, whole.parent)
    for folder in (".", "round3") if method == "imp" else (".",):
        if (whole.parent / folder / "metrics.jsonl").exists():
            assert read_metrics(resumed.parent / folder) == read_metrics(whole.parent / folder)
    monkeypatch.delattr(loop.Trainer, "step")  # exported again, without training
    assert_same_files(run_parp(stopped).parent, whole.parent)


def test_the_report_is_written_last(finetuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps take a run with a report of all its steps for a finished one."""

    def interrupted(**report: Any) -> None:
        raise KeyboardInterrupt

    model = tmp_path / "run" / "parp.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(parp_training, "ParpReport", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_parp(finetuning())
    assert model.exists() and not (tmp_path / "run" / "report.json").exists()
    assert run_parp(finetuning()) == model
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["file_bytes"] == model.stat().st_size


def test_parts_and_processes_compute_what_one_process_does(finetuning, tmp_path: Path) -> None:
    # dropped layers and hidden frames belong to a part; where there are none, parts agree with the whole. Gradients of
    # 10 round by 1e-6, and where they are small AdamW steps by that times rate / eps
    calm = {"dropout.layerdrop": 0.0, "masking.frames": 0.0, "masking.channels": 0.0, "optimisation.eps": 1e-2}

    def make(name: str, **changes: Any) -> ParpRecipe:
        return finetuning(**calm | {"run.folder": str(tmp_path / name)} | changes)

    processes = launch(make("processes"), folder=tmp_path, processes=2, method="parp")
    run_parp(make("whole"))
    run_parp(make("parts", **{"optimisation.accumulation": 2}))
    finish(processes)
    wanted = read_metrics(tmp_path / "whole")
    for name in ("parts", "processes"):
        for row, expected in zip(read_metrics(tmp_path / name), wanted, strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
        state, reference = (read_state(tmp_path / folder)["objective"]["recogniser"] for folder in (name, "whole"))
        torch.testing.assert_close(state, reference, rtol=1e-4, atol=1e-5)


def test_it_learns_to_write(finetuning, tmp_path: Path) -> None:
    """Letters that are tones, each of a pitch of its own."""
    pitches, folder = {"A": 0.1, "B": 0.35, "C": 0.8}, tmp_path / "tones"
    texts = ["".join(letters) for letters in itertools.permutations(pitches, 2)] + list(pitches)
    folder.mkdir()
    for text in texts:
        tones = [torch.sin(pitches[letter] * torch.arange(400.0)) * torch.hann_window(400) for letter in text]
        soundfile.write(folder / f"{text}.wav", torch.cat(tones).numpy(), 16000)
    (folder / "all.trans.txt").write_text("".join(f"{text} {text}\n" for text in texts))
    calm = {"masking.frames": 0.0, "masking.channels": 0.0, "dropout.layerdrop": 0.0, "optimisation.frozen": 0.0}
    sources = {"data.train": str(folder), "data.test": str(folder), "data.labels": "characters"}
    size = {"optimisation.steps": 240, "optimisation.learning_rate": 3e-3, "data.batch_utterances": 9}
    run_parp(finetuning(**calm | sources | size | {"parp.every": 10}))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rates = report["tests"][str(folder)]
    assert rates["recordings"] == 9
    assert rates["cer"] < 0.2
    (written,) = (tmp_path / "run" / "hypotheses").glob("*.tsv")
    lines = [line.split("\t") for line in written.read_text().splitlines()]
    assert lines[0] == ["recording", "said", "recognised"]
    assert sorted(line[1] for line in lines[1:]) == sorted(texts)


def test_the_loss_is_torchs_ctc_loss(finetuning, teacher_file: Path) -> None:
    """A step's loss from its definition: each recording by itself, unpadded, averaged over recordings."""
    recipe = finetuning(**{"masking.frames": 0.0, "masking.channels": 0.0, "dropout.layerdrop": 0.0})
    from pruned_upstream.parp.alphabet import Alphabet
    from pruned_upstream.parp.rounds import Pruner, rounds_of
    from pruned_upstream.training.data import Batches
    from pruned_upstream.training.parp import CtcObjective
    from pruned_upstream.training.transcripts import find_transcribed

    # a group norm would see the padding, and shares of frames would let a padded frame count
    encoder = random_encoder(replace(tiny_config(extractor_mode="layer_norm"), padding="exact"))
    alphabet = Alphabet.of("letters", [])
    found = find_transcribed(recipe.data.train, "letters", min_samples=encoder.config.receptive_field)
    labels = [alphabet.encode(text) for text in found.texts]
    recogniser = Recogniser(encoder, alphabet.classes)
    recogniser.reset_head(0)
    (stage,) = rounds_of(recipe.parp)
    pruner = Pruner(prunable_weights(encoder, MODULES), stage, steps=STEPS)
    objective = CtcObjective(recogniser, labels, pruner, recipe)
    (part,) = Batches(found.corpus, recipe.data, seed=0)[0]
    objective.begin_step(0, [part])
    loss = objective.loss(part)
    alone = []
    for wav, utterance in zip(part.wavs, part.utterances, strict=True):
        hidden = encoder.eval().extract([wav]).hidden_states[-1][0]
        scores = recogniser.head(hidden).log_softmax(-1)
        label = torch.tensor([labels[utterance]])
        ctc = torch.nn.CTCLoss(reduction="sum")
        alone.append(ctc(scores.unsqueeze(1), label, torch.tensor([len(scores)]), torch.tensor([label.size(1)])))
    assert loss.item() == pytest.approx(sum(alone).item() / len(alone), rel=1e-4)
    assert objective.frames == sum(encoder.config.frames(len(wav)) for wav in part.wavs)


def test_the_file_holds_survivors_alone(finetuning) -> None:
    path = run_parp(finetuning(**{"parp.sparsity": 0.9}))
    header = read_header(path)
    assert header.version == "2" and len(header.sparse) == 18
    with safe_open(path, framework="pt") as file:
        values = sum(file.get_tensor(name).numel() for name in file.keys() if name.endswith(".values"))
    assert values == PRUNABLE - zeros(0.9, PRUNABLE)
    assert header.provenance["method"] == "parp"


def test_what_cannot_be_done_is_named(finetuning, speech: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimisation.steps is 3; it must be at least 4, one per round"):
        run_parp(finetuning(**{"parp.method": "imp", "optimisation.steps": 3}))
    with pytest.raises(ConfigError, match="parp.modules"):
        run_parp(finetuning(**{"parp.modules": ["query"]}))
    with pytest.raises(ConfigError, match="data.labels is 'words'"):
        finetuning(**{"data.labels": "words"})
    with pytest.raises(ConfigError, match="masking.frame_span is 0"):
        finetuning(**{"masking.frame_span": 0})
    (speech / "all.trans.txt").unlink()
    with pytest.raises(DataError, match="none of the recordings .* has a transcript"):
        run_parp(finetuning())


@pytest.mark.parametrize("name", ["parp_10min", "parp_1h", "parp_10h", "parp_demo"])
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name, ParpRecipe, ["teacher=wav2vec_small.pt", "data.train=librispeech_finetuning"])
    assert recipe.parp.method == "parp"


def test_fairseqs_values() -> None:
    """fairseq, examples/wav2vec/config/finetuning/base_10m.yaml, base_1h.yaml, base_10h.yaml."""
    given = ["teacher=wav2vec_small.pt", "data.train=librispeech_finetuning"]
    ten, hour, hours = (load_recipe(name, ParpRecipe, given) for name in ("parp_10min", "parp_1h", "parp_10h"))
    for recipe, steps, channels, layerdrop in (
        (ten, 13000, 0.25, 0.1),
        (hour, 13000, 0.25, 0.1),
        (hours, 20000, 0.5, 0.05),
    ):
        options = recipe.optimisation
        assert (options.steps, options.learning_rate, options.betas) == (steps, 5e-5, [0.9, 0.98])
        assert (options.warmup, options.hold, options.final) == (0.1, 0.4, 0.05)
        assert round(options.frozen * options.steps) == 10000
        assert (recipe.masking.frames, recipe.masking.channels, recipe.masking.channel_span) == (0.65, channels, 64)
        assert (recipe.dropout.layerdrop, recipe.dropout.activation) == (layerdrop, 0.1)
        assert recipe.data.batch_seconds * 16000 == 3_200_000 * 2 * 4
