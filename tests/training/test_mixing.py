"""Utterance mixing: who talks over whom follows from (seed, epoch, recording), as loud and as long as WavLM had it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from training.conftest import write_noise

from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.mixing import LONGEST, Drawn, draw, mixed
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import Data


def batches(recordings: Path, accumulation: int = 1, **options) -> Batches:
    data = Data(train=[str(recordings)], batch_utterances=4, max_seconds=0.1, workers=0, **options)
    return Batches(find_corpus(data.train, min_samples=40), data, seed=3, accumulation=accumulation)


def waveforms(found: Batches, step: int) -> dict[int, torch.Tensor]:
    return {u: w for part in found[step] for u, w in zip(part.utterances, part.wavs, strict=True)}


def test_without_mixing_nothing_is_touched(recordings: Path) -> None:
    plain, never = batches(recordings), batches(recordings, mix=0.0)
    for step in range(4):
        a, b = waveforms(plain, step), waveforms(never, step)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[u], b[u]) for u in a)


def test_a_mixture_is_the_same_however_the_batch_is_dealt(recordings: Path) -> None:
    whole, parts = batches(recordings, mix=1.0), batches(recordings, mix=1.0, accumulation=3)
    for step in (0, 1, 5):
        a, b = waveforms(whole, step), waveforms(parts, step)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[u], b[u]) for u in a)


def test_epochs_mix_anew_and_about_the_share_that_is_asked_for() -> None:
    drawn = [draw(0, epoch, u, mix=0.2, noise_share=0.1) for epoch in range(4) for u in range(1000)]
    taken = [found for found in drawn if found is not None]
    assert len(taken) == pytest.approx(0.2 * len(drawn), rel=0.1)
    assert sum(found.noise for found in taken) == pytest.approx(0.1 * len(taken), rel=0.35)
    assert len(set(taken)) == len(taken)
    for found in taken:
        low, high = (-5, 20) if found.noise else (-5, 5)
        assert low <= found.decibels <= high
        assert 0 <= found.stretch <= LONGEST
    speech = [found.decibels for found in taken if not found.noise]
    assert (min(speech), max(speech)) == pytest.approx((-5, 5), abs=0.2)


@pytest.mark.parametrize("decibels", [-5.0, 0.0, 5.0])
def test_a_stretch_of_the_second_is_added_at_the_ratio_of_energies(decibels: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(1000, generator=generator), 7 * torch.randn(600, generator=generator)
    drawn = Drawn(noise=False, second=0.0, decibels=decibels, stretch=0.3, place=0.5, start=1.0)
    found = mixed(first, drawn, len(second), lambda start, samples: second[start : start + samples])
    added = found - first
    assert (added[:350] == 0).all()
    assert (added[650:] == 0).all()
    ratio = 10 * torch.log10(first.square().mean() / added[350:650].square().mean())
    assert ratio.item() == pytest.approx(decibels, abs=0.01)
    torch.testing.assert_close(
        added[350:650] / added[350:650].norm(), second[300:] / second[300:].norm(), rtol=1e-3, atol=1e-4
    )


def test_silence_is_left_alone() -> None:
    first = torch.randn(100)
    drawn = Drawn(noise=False, second=0.0, decibels=0.0, stretch=0.5, place=0.0, start=0.0)
    assert torch.equal(mixed(first, drawn, 80, lambda start, samples: torch.zeros(samples)), first)


def test_noise_comes_from_its_own_folder(recordings: Path, tmp_path: Path) -> None:
    rate = 16000
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "tone.wav", tone, rate)
    plain = batches(recordings)
    found = batches(recordings, mix=1.0, noise=[str(tmp_path / "noise")], noise_share=1.0)
    differences = [waveforms(found, 0)[u] - wav for u, wav in waveforms(plain, 0).items()]
    loudest = max(differences, key=lambda d: d.square().sum())
    at_1000 = torch.fft.rfft(loudest.double()).abs()
    assert at_1000.argmax().item() == pytest.approx(1000 * len(loudest) / rate, abs=3)


def test_a_recording_that_is_alone_in_its_batch_is_left_alone(tmp_path: Path) -> None:
    write_noise(tmp_path / "speech" / "one.wav", 1200)
    a, b = batches(tmp_path / "speech"), batches(tmp_path / "speech", mix=1.0)
    assert torch.equal(waveforms(a, 0)[0], waveforms(b, 0)[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.mix": 1.5}, "data.mix is 1.5"),
        ({"data.noise": ["x"]}, "data.mix is 0.0; it must be above 0 where data.noise names noise"),
        ({"data.mix": 0.2, "data.noise_share": -1}, "data.noise_share is -1"),
        ({"data.mix": 0.2, "data.noise": []}, "data.noise is"),
    ],
)
def test_impossible_values_are_named(recipe, changes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        recipe(**changes)


def test_a_run_learns_with_it_and_holds_on_to_its_noise(recipe, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    write_noise(noise / "a.wav", 3000, seed=9)
    changes = {"data.mix": 0.5, "data.noise": str(noise), "data.noise_share": 0.5, "optimisation.steps": 2}
    model = run_prune(recipe(**changes))
    assert model.exists()
    write_noise(noise / "b.wav", 3000, seed=10)
    with pytest.raises(DataError, match="noise"):
        run_prune(recipe(**changes))


def test_a_batch_of_one_recording_has_nobody_to_talk_over_it(recipe) -> None:
    alone = {"data.mix": 0.2, "data.batch_utterances": 1}
    with pytest.raises(ConfigError, match="data.batch_utterances is 1; it must be at least 2 where data.mix"):
        recipe(**alone)
    assert recipe(**alone | {"data.noise": ["noise"], "data.noise_share": 1.0}).data.mix == 0.2  # noise alone
    assert recipe(**alone | {"data.mix": 0.0}).data.batch_utterances == 1
