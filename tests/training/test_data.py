"""Batches are pure functions of seed, epoch and place; every recording is used; parts agree on their padding."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.conftest import LENGTHS

from pruned_upstream.training.corpus import Corpus, Header, Utterance, find_corpus
from pruned_upstream.training.data import Batch, Batches, BatchPlan, noise_seed
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.recipe import Data

lengths_lists = st.lists(st.integers(400, 250_000), min_size=1, max_size=60)


@given(lengths_lists, st.integers(0, 5), st.integers(1, 9), st.integers(1, 4))
def test_an_epoch_takes_every_recording_once(lengths: list[int], seed: int, size: int, bucket: int) -> None:
    plan = BatchPlan(lengths, seed=seed, utterances=size, bucket=bucket)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= size for batch in batches)


@given(lengths_lists, st.integers(0, 5), st.integers(400, 1_000_000))
def test_batches_by_duration_keep_to_it_padding_included(lengths: list[int], seed: int, samples: int) -> None:
    plan = BatchPlan(lengths, seed=seed, samples=samples, bucket=3)
    batches = plan.epoch(0)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= samples


@given(lengths_lists, st.integers(0, 5), st.integers(1, 9), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_steps_batch_does_not_depend_on_what_was_asked_before(
    lengths: list[int], seed: int, size: int, steps: list[int]
) -> None:
    plan = BatchPlan(lengths, seed=seed, utterances=size, bucket=2)
    in_order = {}
    for step in range(201):
        epoch, place = plan.locate(step)
        in_order[step] = plan.epoch(epoch)[place]
    for step in steps:
        fresh = BatchPlan(lengths, seed=seed, utterances=size, bucket=2)
        epoch, place = fresh.locate(step)
        assert fresh.epoch(epoch)[place] == in_order[step]


def test_epochs_and_seeds_differ() -> None:
    plan = BatchPlan(list(range(400, 500)), seed=0, utterances=4)
    other = BatchPlan(list(range(400, 500)), seed=1, utterances=4)
    assert list(plan.epoch(0)) != list(plan.epoch(1))
    assert list(plan.epoch(0)) != list(other.epoch(0))


def test_bucketing_pads_less() -> None:
    lengths = np.random.default_rng(0).integers(16_000, 250_000, size=1000)

    def padded(bucket: int) -> int:
        plan = BatchPlan(lengths, seed=0, utterances=10, bucket=bucket)
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan.epoch(0))

    assert padded(20) < 1.1 * lengths.sum() < 1.5 * lengths.sum() < padded(1)


@pytest.fixture
def batches(recordings: Path) -> Callable[..., Batches]:
    corpus = find_corpus([recordings], min_samples=40)

    def make(*, accumulation: int = 1, workers: int = 0, seed: int = 3, size: int = 4) -> Batches:
        data = Data([str(recordings)], batch_utterances=size, max_seconds=0.1, bucket=1, workers=workers)
        return Batches(corpus, data, seed=seed, accumulation=accumulation)

    return make


def same(a: Batch, b: Batch) -> bool:
    fields = ("pad_to", "utterances", "starts", "seed", "skipped")
    waves = zip(a.wavs, b.wavs, strict=True)
    return all(getattr(a, name) == getattr(b, name) for name in fields) and all(torch.equal(x, y) for x, y in waves)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_processes_do_not_change_batches(batches, workers: int) -> None:
    expected = [batches()[step] for step in range(2, 7)]
    loaded = list(batches(workers=workers).loader(Processes(), 2, 7))
    assert len(loaded) == 5
    for parts, wanted in zip(loaded, expected, strict=True):
        assert all(map(same, parts, wanted))


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (2, 2), (3, 2)])
def test_parts_are_a_partition_of_the_batch_and_pad_alike(batches, world: int, accumulation: int) -> None:
    for step in range(4):
        (whole,) = batches()[step]
        assert whole.pad_to == max(map(len, whole.wavs))
        parts: list[Batch] = []
        for rank in range(world):
            dealt = batches(accumulation=accumulation)
            (loaded,) = dealt.loader(Processes(rank, world), step, step + 1)
            assert len(loaded) == accumulation
            parts += loaded
        assert {part.pad_to for part in parts} == {whole.pad_to}
        assert len({part.seed for part in parts}) == world * accumulation
        dealt_out = [zip(part.utterances, part.starts, part.wavs, strict=True) for part in parts]
        found = {u: (start, wav) for u, start, wav in itertools.chain(*dealt_out)}
        assert sorted(found) == sorted(whole.utterances)
        assert sum(len(part.wavs) for part in parts) == len(whole.wavs)
        for u, start, wav in zip(whole.utterances, whole.starts, whole.wavs, strict=True):
            assert found[u][0] == start
            assert torch.equal(found[u][1], wav)


def test_process_1_of_2_and_part_1_of_2_are_the_same_part(batches) -> None:
    in_one = batches(accumulation=2)[3]
    for rank in (0, 1):
        ((part,),) = batches().loader(Processes(rank, 2), 3, 4)
        assert same(part, in_one[rank])


def test_crops_are_at_most_so_long_and_differ_between_epochs(batches) -> None:
    made = batches()
    longest = LENGTHS.index(max(LENGTHS))
    by_name = next(i for i, u in enumerate(made.corpus.utterances) if u.name.endswith(f"/{longest}.wav"))
    crops = [made.crop(epoch, by_name) for epoch in range(8)]
    assert crops == [batches().crop(epoch, by_name) for epoch in range(8)]
    assert len(set(crops)) > 4
    assert all(samples == 1600 and 0 <= start <= 3100 - 1600 for start, samples in crops)
    short = next(i for i, u in enumerate(made.corpus.utterances) if u.samples == 640)
    assert made.crop(5, short) == (0, 640)


@given(st.integers(400, 10**6), st.integers(0, 9), st.integers(0, 9))
def test_a_crop_lies_within_its_recording(samples: int, seed: int, epoch: int) -> None:
    utterance = Utterance("a", Path("a"), Header(samples, 16000, 1))
    made = Batches(Corpus([utterance]), Data(["a"]), seed=seed)
    start, length = made.crop(epoch, 0)
    assert length == min(samples, 249_600)
    assert 0 <= start <= samples - length


def test_unusable_recordings_leave_the_batch_and_are_named(batches, recordings: Path) -> None:
    made = batches(size=len(LENGTHS))
    wav = np.full(2400, np.nan, dtype=np.float32)
    soundfile.write(recordings / "speaker0" / "0.wav", wav, 16000, subtype="FLOAT")
    (batch,) = made[0]
    assert batch.skipped == {"speaker0/0.wav": "it holds samples that are NaN or infinite"}
    assert len(batch.wavs) == len(batch.starts) == len(batch.utterances) == len(LENGTHS) - 1
    assert batch.pad_to == 1600


def test_batches_travel_to_loader_processes_however_they_start(batches) -> None:
    made = batches()
    assert same(pickle.loads(pickle.dumps(made))[1][0], made[1][0])


def test_noise_seeds_differ_and_fit_torch() -> None:
    seeds = {noise_seed(seed, step, part) for seed in range(3) for step in range(20) for part in range(3)}
    assert len(seeds) == 180
    for seed in seeds:
        torch.Generator().manual_seed(seed)
