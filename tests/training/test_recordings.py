"""What is in a folder of speech that should not be learned from, or would break training: said or left out, in every
case counted."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from training.conftest import write_noise

from pruned_upstream.errors import DataError
from pruned_upstream.report.page import numbers
from pruned_upstream.report.runs import read_run
from pruned_upstream.training import corpus
from pruned_upstream.training.corpus import Corpus, find_corpus
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.transcripts import find_transcribed

PARTS = ("train-clean-100", "train-other-500", "dev-clean", "test-clean", "test-other")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger=corpus.__name__)
    return caplog


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    root = tmp_path / "speech" / "LibriSpeech"
    for part in PARTS:
        write_noise(root / part / "19" / "198" / f"19-198-{PARTS.index(part):04d}.flac", 1000, seed=PARTS.index(part))
    return root


def found(*sources: Path, **options: bool) -> Corpus:
    return find_corpus(sources, min_samples=40, **options)


def names(corpus: Corpus) -> list[str]:
    return [utterance.name for utterance in corpus.utterances]


def test_librispeech_means_its_training_parts(librispeech: Path, said) -> None:
    for source in (librispeech, librispeech.parent):
        kept = found(source)
        assert [name.split("/")[-4] for name in names(kept)] == ["train-clean-100", "train-other-500"]
        assert [Path(part).name for part in kept.left_out] == ["dev-clean", "test-clean", "test-other"]
        assert kept.looks_held_out == {}
        assert "left out, since a folder of LibriSpeech's parts means those of training" in said.text
    assert len(found(librispeech, for_training=False).utterances) == 5


def test_its_test_parts_are_used_when_they_are_named_and_that_is_told(librispeech: Path, said) -> None:
    kept = found(librispeech / "train-clean-100", librispeech / "test-clean", librispeech / "dev-clean" / "19")
    assert kept.looks_held_out == {"test-clean": 1, "dev-clean (19)": 1} and kept.left_out == []
    assert "TRAINING ON WHAT LOOKS LIKE DEVELOPMENT OR TEST DATA: test-clean (1 recordings)" in said.text
    said.clear()
    assert found(librispeech / "test-clean", for_training=False).looks_held_out == {}
    assert said.text == ""


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("corpus/test", {"corpus/test": 1}),
        ("corpus/eval92", {"corpus/eval92": 1}),
        ("corpus/si_dev_20", {"corpus/si_dev_20": 1}),
        ("corpus/clips/Validation", {"corpus/clips/Validation": 1}),
        ("corpus/train", {}),
        ("corpus/train_test_split", {}),
        ("corpus/testimony", {}),
        ("corpus/devon/latest", {}),
    ],
)
def test_what_looks_like_a_test_set_anywhere_else(tmp_path: Path, folder: str, wanted: dict[str, int]) -> None:
    write_noise(tmp_path / folder / "x.wav", 1000)
    assert found(tmp_path / "corpus").looks_held_out == wanted


def test_a_manifest_of_a_test_set(librispeech: Path) -> None:
    for name, part, wanted in (
        ("valid.tsv", "train-clean-100", {"valid": 1}),
        ("train.tsv", "test-clean", {"test-clean": 1}),
        ("train.tsv", "train-clean-100", {}),
    ):
        path = f"{part}/19/198/19-198-{PARTS.index(part):04d}.flac"
        manifest = librispeech.parent / name
        manifest.write_text(f"{librispeech}\n{path}\t1000\n")
        sets = found(manifest).looks_held_out
        assert {key.split("/")[-1]: count for key, count in sets.items()} == wanted


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    """One split behind a link: all of its recordings count, once, under the name that the folder gives them."""
    for number in range(9):
        write_noise(tmp_path / "elsewhere" / "deep" / f"{number}.wav", 1000, seed=number)
    write_noise(tmp_path / "speech" / "here.wav", 1000)
    (tmp_path / "speech" / "split").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "speech")
    (tmp_path / "speech" / "itself").symlink_to("itself")
    (tmp_path / "speech" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "speech" / "gone.wav").symlink_to("nothing.wav")
    (tmp_path / "speech" / "alias.wav").symlink_to("here.wav")
    kept = found(tmp_path / "speech")
    assert len(kept.utterances) == 10 and len({utterance.path.resolve() for utterance in kept.utterances}) == 10
    assert kept.skipped == {"gone.wav": "there is no such file"}


def test_transcripts_behind_links_are_read(tmp_path: Path) -> None:
    write_noise(tmp_path / "elsewhere" / "x.wav", 1000)
    (tmp_path / "elsewhere" / "all.trans.txt").write_text("x TEA\n")
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "split").symlink_to(tmp_path / "elsewhere")
    assert find_transcribed([tmp_path / "speech"], "letters", min_samples=40).texts == ["TEA"]


def test_what_is_named_twice_is_taken_once(recordings: Path, tmp_path: Path, said) -> None:
    once = found(recordings)
    (tmp_path / "alias").symlink_to(recordings)
    manifest = tmp_path / "train.tsv"
    manifest.write_text(f"{recordings}\nspeaker0/0.wav\t1\nspeaker0/0.wav\t1\n")
    for sources in ((recordings, recordings), (recordings, tmp_path / "alias"), (recordings, recordings / "speaker0")):
        kept = found(*sources)
        assert kept.utterances == once.utterances and kept.fingerprint == once.fingerprint
        assert len(kept.repeated) in (4, 7)
    assert len(found(manifest).utterances) == 1
    assert "7 recordings are named more than once, and used once" in said.text


def test_a_name_that_is_not_utf8(tmp_path: Path, said) -> None:
    write_noise(tmp_path / "speech" / "fine.wav", 1000)
    bad = os.fsdecode(os.fsencode(tmp_path / "speech") + b"/caf\xe9.wav")
    write_noise(tmp_path / "speech" / "bad.wav", 1000).rename(bad)
    kept = found(tmp_path / "speech")
    assert names(kept) == ["fine.wav"]
    assert kept.skipped == {"caf\\xe9.wav": "its name is not UTF-8; rename it"}
    assert kept.fingerprint and json.dumps(kept.skipped, ensure_ascii=False).encode()
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)
    with pytest.raises(DataError, match=r"the name of .*\\xff is not UTF-8"):
        found(Path(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(recordings: Path) -> None:
    (recordings / "speaker0").chmod(0)
    assert found(recordings).skipped == {str(recordings / "speaker0"): "the folder cannot be read (Permission denied)"}


def without_length(path: Path) -> None:
    """As a FLAC encoder leaves it that writes to a pipe: the number of samples is 0, unknown."""
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of samples after 20 of rate, 3 of channels and 5 of width
    data[22:26] = bytes(4)
    path.write_bytes(data)


def test_headers_that_cannot_be(tmp_path: Path) -> None:
    without_length(write_noise(tmp_path / "speech" / "stream.flac", 1000))
    write_noise(tmp_path / "speech" / "prime.wav", 1000, rate=9_999_991)
    write_noise(tmp_path / "speech" / "slow.wav", 1000, rate=7)
    write_noise(tmp_path / "speech" / "fine.wav", 1000)
    began = time.monotonic()
    kept = found(tmp_path / "speech")
    assert names(kept) == ["fine.wav"]
    assert "does not say how long it is" in kept.skipped["stream.flac"]
    assert "9999991 Hz, which is no rate of speech" in kept.skipped["prime.wav"]
    assert "7 Hz, which is no rate of speech" in kept.skipped["slow.wav"]
    assert time.monotonic() - began < 10


def test_an_odd_rate_that_can_be(tmp_path: Path) -> None:
    """16 000 and a prime have no common divisor: the filter is long, and still bounded."""
    write_noise(tmp_path / "speech" / "odd.wav", 10_000, rate=44_101)
    (utterance,) = found(tmp_path / "speech").utterances
    assert utterance.read(0, utterance.samples).shape == (9_999 * 16_000 // 44_101,)


def test_the_cases_that_were_found(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "cases" / "audio"
    if not folder.is_dir():
        pytest.skip("no ../shared/cases/audio")
    with pytest.raises(DataError, match="none of the 2 recordings"):
        found(folder)


def test_a_damaged_cache_of_headers_is_no_more_than_none(recordings: Path, tmp_path: Path) -> None:
    cache = tmp_path / "headers.json"
    wanted = find_corpus([recordings], min_samples=40, cache=cache)
    rows = json.loads(cache.read_text())
    for damage in ("[" * 100_000, "[[1e999]]", "7", json.dumps([[*rows[0][:4], [1e999, 16000, 1, ""]]])):
        cache.write_text(damage)
        assert find_corpus([recordings], min_samples=40, cache=cache) == wanted


def test_texts_about_recordings(tmp_path: Path) -> None:
    """A byte order mark, U+2028 within a line, line ends of Windows, blank lines at the end, tabs."""
    for name in ("a", "b", "c"):
        write_noise(tmp_path / "speech" / f"{name}.wav", 1000)
    (tmp_path / "train.tsv").write_bytes(b"\xef\xbb\xbfspeech\r\na.wav\t1000\r\nb.wav\t1000\r\nc.wav\t1000\r\n\r\n\n")
    (tmp_path / "train.wrd").write_text("\ufeffso\u2028it\nis\x85so\n\x0btea\n\n\n", encoding="utf-8")
    assert find_transcribed([tmp_path / "train.tsv"], "letters", min_samples=40).texts == ["SO IT", "IS SO", "TEA"]
    (tmp_path / "speech" / "all.trans.txt").write_text("\ufeffa SO\u2028IT\n\nb\tIS SO\nc  TEA\n\n", encoding="utf-8")
    assert find_transcribed([tmp_path / "speech"], "letters", min_samples=40).texts == ["SO IT", "IS SO", "TEA"]


def test_two_transcripts_of_a_recording(tmp_path: Path) -> None:
    write_noise(tmp_path / "speech" / "a.wav", 1000)
    (tmp_path / "speech" / "all.trans.txt").write_text("a SO\na SO\n")
    assert find_transcribed([tmp_path / "speech"], "letters", min_samples=40).texts == ["SO"]
    (tmp_path / "speech" / "more.trans.txt").write_text("a TEA\n")
    with pytest.raises(DataError, match=r"speech/a has two transcripts: 'SO' and 'TEA'"):
        find_transcribed([tmp_path / "speech"], "letters", min_samples=40)


def test_what_is_dropped_while_training_is_counted(recipe, recordings: Path, tmp_path: Path) -> None:
    soundfile.write(recordings / "speaker0" / "0.wav", np.full(2400, np.inf, dtype=np.float32), 16000, subtype="FLOAT")
    soundfile.write(recordings / "speaker0" / "2.wav", np.zeros(900), 16000)
    write_noise(recordings / "speaker1" / "3.flac", 2000, seed=8)
    cut = recordings / "speaker1" / "3.flac"
    cut.write_bytes(cut.read_bytes()[:1500])
    (recordings / "test").mkdir()
    write_noise(recordings / "test" / "x.wav", 1500, seed=9)
    run_prune(recipe(**{"optimisation.steps": 6}))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    dropped = report["dropped"]
    assert set(dropped) == {"speaker0/0.wav", "speaker0/2.wav", "speaker1/3.flac"} and report["skipped"] == {}
    assert dropped["speaker0/0.wav"] == "it holds samples that are NaN or infinite"
    assert dropped["speaker0/2.wav"] == "it is silent throughout, from 0.0 to 0.1 s"
    assert report["looks_held_out"] == {"speech/test": 1} and report["recordings"] == 9
    page = dict(numbers([read_run(tmp_path / "run")]).rows)
    assert page["TRAINED ON, LOOKS LIKE TEST DATA"] == ["speech/test (1)"]
    assert page["recordings found unusable in training"] == ["3"]
