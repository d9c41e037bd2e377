"""A corpus that is still being read gives the batches that it gives once it is read."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from training.conftest import LENGTHS, write_noise

from pruned_upstream.errors import DataError
from pruned_upstream.training import corpus, growing
from pruned_upstream.training.corpus import find_corpus, find_files
from pruned_upstream.training.data import Batch, Batches, BatchPlan
from pruned_upstream.training.growing import GrowingCorpus, recordings_of
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.recipe import Data

STEPS = 9  # more than two epochs


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The scan waits for it; what batches ask for does not."""
    go, measured = threading.Event(), growing.measured

    def slowly(*arguments, **options):
        assert go.wait(60)
        return measured(*arguments, **options)

    monkeypatch.setattr(growing, "measured", slowly)
    yield go
    go.set()


@pytest.fixture
def spoiled(recordings: Path) -> Path:
    """With files that cannot be used among those that can."""
    (recordings / "speaker0" / "a.wav").touch()
    (recordings / "speaker1" / "b.flac").write_bytes(b"fLaC" + bytes(range(200)))
    write_noise(recordings / "short.wav", 39)
    return recordings


def batches(speech: Corpus, folder: Path, **options) -> Batches:
    data = Data([str(folder)], batch_utterances=4, max_seconds=0.1, bucket=2, **{"workers": 0} | options)
    return Batches(speech, data, seed=3)


Corpus = corpus.Corpus | GrowingCorpus


def grown(folder: Path) -> GrowingCorpus:
    return GrowingCorpus(find_files([folder]), min_samples=40)


def content(batch: Batch) -> tuple:
    return (batch.pad_to, batch.utterances, batch.starts, batch.seed, batch.skipped, [w.tolist() for w in batch.wavs])


def test_batches_come_before_the_headers_and_are_those_that_come_after(spoiled: Path, held: threading.Event) -> None:
    early = batches(grown(spoiled), spoiled)
    first = content(early[0][0])
    assert 0 < (early.corpus.known != growing.UNKNOWN).sum() < len(early.corpus)  # its window alone was read
    while_reading = [first, *(content(early[step][0]) for step in range(1, STEPS))]
    held.set()
    late = batches(grown(spoiled), spoiled)
    late.corpus.wait()
    assert bool((late.corpus.known != growing.UNKNOWN).all())
    assert [content(late[step][0]) for step in range(STEPS)] == while_reading
    skipped = {name: reason for batch in while_reading for name, reason in batch[4].items()}
    assert skipped == find_corpus([spoiled], min_samples=40).skipped
    assert early.corpus.fingerprint == late.corpus.fingerprint


def test_where_all_can_be_used_they_are_those_of_a_corpus_read_at_once(recordings: Path, held) -> None:
    wanted = batches(find_corpus([recordings], min_samples=40), recordings, mix=0.5)
    found = batches(grown(recordings), recordings, mix=0.5)
    assert [content(found[step][0]) for step in range(STEPS)] == [content(wanted[step][0]) for step in range(STEPS)]


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_read_what_is_not_known_yet(spoiled: Path, held: threading.Event, workers: int) -> None:
    wanted = [content(batches(grown(spoiled), spoiled)[step][0]) for step in range(STEPS)]
    made = batches(grown(spoiled), spoiled, workers=workers)
    found = [content(part) for (part,) in made.loader(Processes(), 0, STEPS)]
    assert found == wanted
    assert bool((made.corpus.known != growing.UNKNOWN).all())  # and this process knows it too: they share the table


def test_what_is_found_in_the_end_is_what_find_corpus_finds(spoiled: Path, tmp_path: Path) -> None:
    wanted, cache = find_corpus([spoiled], min_samples=40), tmp_path / "headers.json"
    for _ in range(2):  # without and with the cache
        found = GrowingCorpus(find_files([spoiled]), min_samples=40, cache=cache)
        assert found.whole == wanted and found.fingerprint == wanted.fingerprint and found.hours == wanted.hours
        assert len(found) == len(LENGTHS) + 3 and len(found.utterances) == len(LENGTHS)


def test_nothing_usable_is_said_when_all_is_known(tmp_path: Path) -> None:
    write_noise(tmp_path / "short.wav", 39)
    with pytest.raises(DataError, match=r"none of the 1 recordings .*short\.wav: 39"):
        grown(tmp_path).fingerprint  # noqa: B018


def test_which_kind_follows_from_the_recipe_and_the_number_of_files(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(**options) -> type:
        data = Data([str(recordings)], **options)
        return type(recordings_of(data, Processes(), min_samples=40, cache=tmp_path / "headers.json"))

    assert kind() is corpus.Corpus
    monkeypatch.setattr(growing, "AT_ONCE", len(LENGTHS) - 1)
    assert kind() is GrowingCorpus
    assert kind(batch_seconds=1.0) is corpus.Corpus


def test_a_batch_asks_for_the_lengths_of_its_window_alone() -> None:
    lengths = torch.randint(400, 9000, (1000,)).numpy()
    asked: set[int] = set()

    def tell(numbers):
        asked.update(numbers.tolist())
        return lengths[numbers]

    lazy = BatchPlan(tell, count=1000, seed=1, utterances=4, bucket=5)
    first = lazy.epoch(0)[0]
    assert len(asked) == 20 and set(first) <= asked
    assert list(lazy.epoch(0)) == list(BatchPlan(lengths, seed=1, utterances=4, bucket=5).epoch(0))


ENDS = """
import sys, time
from pruned_upstream.training import corpus, growing
corpus._read_header = lambda path: time.sleep(1000)
growing.GrowingCorpus(corpus.find_files([sys.argv[1]]), min_samples=40)
time.sleep(0.5)
"""


def test_a_process_ends_while_headers_are_read(recordings: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDS, str(recordings)], check=True, timeout=60)
