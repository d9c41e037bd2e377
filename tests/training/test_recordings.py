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
from pruned_upstream.training.corpus import BadRecording, Corpus, find_corpus
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


def test_test_sets_behind_links_and_roots_of_manifests(librispeech: Path, tmp_path: Path) -> None:
    """Whatever a link or a manifest is called, the recordings that it leads to are told by their own place."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "train-clean-100").symlink_to(librispeech / "train-clean-100")
    (mine / "train-extra").symlink_to(librispeech / "test-clean")
    assert found(mine).looks_held_out == {"test-clean (mine)": 1}
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("test-other", "train-clean-100"):
        (recording,) = (librispeech / part).rglob("*.flac")
        (flat / f"{part[:5]}.flac").symlink_to(recording)
    assert found(flat).looks_held_out == {"test-other (flat)": 1}
    write_noise(tmp_path / "corpus" / "Held_Out" / "a.wav", 1000)
    write_noise(tmp_path / "corpus" / "train" / "b.wav", 1000, seed=1)
    listed = tmp_path / "listed.tsv"
    for root, wanted in (("Held_Out/a", {"Held_Out (listed.tsv)": 1}), ("train/b", {})):
        folder, _, name = root.partition("/")
        listed.write_text(f"corpus/{folder}\n{name}.wav\t1000\n")
        assert found(listed).looks_held_out == wanted
    listed.write_text(f"{librispeech / 'dev-clean' / '19'}\n198/19-198-0002.flac\t1000\n")
    assert found(listed).looks_held_out == {"dev-clean (listed.tsv)": 1}


def test_two_sources_that_name_their_recordings_alike(tmp_path: Path) -> None:
    for number, place in enumerate(("a/en", "b/en", "c/de")):
        write_noise(tmp_path / place / "1.wav", 1000, seed=number)
        (tmp_path / place / "2.wav").touch()
        write_noise(tmp_path / place / f"of_{number}.wav", 1000, seed=7 + number)
    kept = found(tmp_path / "a" / "en", tmp_path / "b" / "en", tmp_path / "c" / "de")
    assert names(kept) == ["en/1.wav", "of_0.wav", "en-2/1.wav", "of_1.wav", "de/1.wav", "of_2.wav"]
    assert kept.skipped == dict.fromkeys(("en/2.wav", "en-2/2.wav", "de/2.wav"), "the file is empty")
    before = kept.fingerprint
    (tmp_path / "elsewhere").mkdir()
    for place in "abc":
        (tmp_path / place).rename(tmp_path / "elsewhere" / place)
    moved = tmp_path / "elsewhere"
    assert found(moved / "a" / "en", moved / "b" / "en", moved / "c" / "de").fingerprint == before


def test_samples_that_no_recording_has(tmp_path: Path) -> None:
    """They are finite, and their squares are not; what somebody wrote as integers is used."""
    for name, scale in (("damaged", 1e30), ("integers", 2.0**31)):
        wav = np.linspace(-scale, scale, 1000, dtype=np.float32)
        (tmp_path / "speech").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "speech" / f"{name}.wav", wav, 16000, subtype="FLOAT")
    damaged, integers = found(tmp_path / "speech").utterances
    with pytest.raises(BadRecording, match=r"it holds samples of 1e\+30, where those of speech are below 1"):
        damaged.read(0, 1000)
    assert integers.read(0, 1000).abs().max() == 2.0**31


def test_noise_that_cannot_be_used_is_counted(recipe, tmp_path: Path) -> None:
    (tmp_path / "hum").mkdir()
    (tmp_path / "hum" / "empty.wav").touch()
    soundfile.write(tmp_path / "hum" / "nan.wav", np.full(2400, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    noisy = {"data.noise": [str(tmp_path / "hum")], "data.mix": 1.0, "data.noise_share": 1.0}
    run_prune(recipe(**noisy, **{"optimisation.steps": 2}))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["dropped"] == {"noise nan.wav": "it holds samples that are NaN or infinite"}
    assert report["skipped"] == {"noise empty.wav": "the file is empty"}


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
