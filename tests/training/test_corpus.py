"""Finding, measuring and reading recordings, and everything that can be wrong with them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from training.conftest import LENGTHS, write_noise

from pruned_upstream.errors import DataError
from pruned_upstream.training import corpus
from pruned_upstream.training.corpus import BadRecording, Corpus, Utterance, find_corpus


def only(folder: Path, **options) -> Utterance:
    (utterance,) = find_corpus([folder], min_samples=40, **options).utterances
    return utterance


def test_a_folder_is_searched_through_and_through_in_the_order_of_names(recordings: Path) -> None:
    (recordings / "notes.txt").write_text("not audio")
    found = find_corpus([recordings], min_samples=40)
    assert [u.name for u in found.utterances] == sorted(f"speaker{i % 2}/{i}.wav" for i in range(len(LENGTHS)))
    assert found.hours == pytest.approx(sum(LENGTHS) / 16000 / 3600)
    assert found.skipped == {}


def test_librispeech_as_published(tmp_path: Path) -> None:
    for speaker, chapter, number in ((19, 198, 0), (19, 198, 1), (26, 495, 0)):
        name = f"{speaker}-{chapter}-{number:04d}.flac"
        write_noise(tmp_path / "LibriSpeech/train-clean-100" / str(speaker) / str(chapter) / name, 1000)
    (tmp_path / "LibriSpeech/train-clean-100/19/198/19-198.trans.txt").write_text("19-198-0000 A B\n")
    found = find_corpus([tmp_path / "LibriSpeech"], min_samples=400)
    assert [Path(u.name).stem for u in found.utterances] == ["19-198-0000", "19-198-0001", "26-495-0000"]


def test_a_fairseq_manifest_keeps_its_order(recordings: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "train.tsv"
    manifest.write_text(f"{recordings}\nspeaker1/3.wav\t2000\nspeaker0/0.wav\t2400\n")
    found = find_corpus([manifest], min_samples=40)
    assert [(u.name, u.samples) for u in found.utterances] == [("speaker1/3.wav", 2000), ("speaker0/0.wav", 2400)]


def test_a_manifests_root_may_be_relative_to_the_manifest(recordings: Path) -> None:
    manifest = recordings.parent / "train.tsv"
    manifest.write_text("speech\nspeaker0/0.wav\t2400\n")
    assert find_corpus([manifest], min_samples=40).utterances[0].samples == 2400


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "first line"), ("a\t100\n", "first line"), ("root\na.wav 100\n", "line 2"), ("r\na\t1\nb\tx\n", "line 3")],
)
def test_malformed_manifests_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    manifest = tmp_path / "train.tsv"
    manifest.write_text(text)
    with pytest.raises(DataError, match=rf"{complaint} .*train\.tsv"):
        find_corpus([manifest], min_samples=40)


def test_a_manifest_names_missing_files_among_the_skipped(recordings: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "train.tsv"
    manifest.write_text(f"{recordings}\nspeaker0/0.wav\t2400\nspeaker0/gone.wav\t2400\n")
    found = find_corpus([manifest], min_samples=40)
    assert found.skipped == {"speaker0/gone.wav": "there is no such file"}


@pytest.mark.parametrize(("name", "complaint"), [("nowhere", "no folder or manifest"), ("speech/0.wav", "neither")])
def test_sources_that_are_no_corpus(tmp_path: Path, name: str, complaint: str) -> None:
    write_noise(tmp_path / "speech/0.wav", 1000)
    with pytest.raises(DataError, match=complaint):
        find_corpus([tmp_path / name], min_samples=40)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no audio file in .*known endings are"):
        find_corpus([tmp_path], min_samples=40)


def test_bad_files_are_skipped_counted_and_named(recordings: Path, caplog: pytest.LogCaptureFixture) -> None:
    (recordings / "empty.wav").touch()
    (recordings / "corrupt.flac").write_bytes(b"fLaC" + bytes(range(200)))
    write_noise(recordings / "short.wav", 39)
    write_noise(recordings / "silent.wav", 0)
    with caplog.at_level(logging.WARNING, logger=corpus.__name__):
        found = find_corpus([recordings], min_samples=40)
    assert len(found.utterances) == len(LENGTHS)
    assert found.skipped.keys() == {"empty.wav", "corrupt.flac", "short.wav", "silent.wav"}
    assert found.skipped["empty.wav"] == "the file is empty"
    assert "cannot be read" in found.skipped["corrupt.flac"]
    assert "39 samples at 16 kHz are fewer than the 40" in found.skipped["short.wav"]
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("4 recordings are skipped")
    assert all(name in message for name in found.skipped)


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    write_noise(tmp_path / "short.wav", 39)
    with pytest.raises(DataError, match=r"none of the 2 recordings .*empty\.wav: the file is empty; short\.wav: 39"):
        find_corpus([tmp_path], min_samples=40)


def test_stereo_is_averaged_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_noise(tmp_path / "speech/0.wav", 1000, channels=2, subtype="FLOAT")
    write_noise(tmp_path / "speech/1.wav", 1000, channels=2, subtype="FLOAT", seed=1)
    with caplog.at_level(logging.WARNING, logger=corpus.__name__):
        first = find_corpus([tmp_path / "speech"], min_samples=40).utterances[0]
    assert [r.getMessage() for r in caplog.records] == ["2 recordings have several channels, which are averaged"]
    wav, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(first.read(100, 500).numpy(), wav[100:600].mean(1), atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_sample_rates_keep_their_pitch(tmp_path: Path, rate: int, caplog: pytest.LogCaptureFixture) -> None:
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate)
    with caplog.at_level(logging.WARNING, logger=corpus.__name__):
        utterance = only(tmp_path)
    assert "1 recordings have another sample rate" in caplog.text
    assert 15990 <= utterance.samples <= 16000
    for start, samples in ((0, utterance.samples), (3000, 8000), (utterance.samples - 2000, 2000)):
        wav = utterance.read(start, samples)
        assert wav.shape == (samples,)
        assert wav.dtype == torch.float32
        inner = wav[200:-200].double()  # away from the crop's edges
        frequency = torch.fft.rfft(inner * torch.hann_window(len(inner)), 16000).abs().argmax().item()
        assert frequency == pytest.approx(440, abs=3)
        assert inner.abs().max() == pytest.approx(0.5, abs=0.01)


def test_a_stretch_is_a_slice_of_the_file(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "0.flac", 1000)
    wav, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(only(tmp_path).read(250, 300).numpy(), wav[250:550])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused_where_they_are(tmp_path: Path, bad: float) -> None:
    wav = np.zeros(1000, dtype=np.float32)
    wav[700] = bad
    soundfile.write(tmp_path / "0.wav", wav, 16000, subtype="FLOAT")
    utterance = only(tmp_path)
    assert utterance.read(0, 700).shape == (700,)
    with pytest.raises(BadRecording, match="NaN or infinite"):
        utterance.read(300, 700)


def test_a_file_cut_short_after_its_header_was_read(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "0.wav", 1000)
    utterance = only(tmp_path)
    write_noise(path, 600)
    with pytest.raises(BadRecording, match="ends 400 frames before its header says"):
        utterance.read(0, 1000)
    path.unlink()
    with pytest.raises(BadRecording, match="cannot be decoded"):
        utterance.read(0, 1000)


def test_headers_are_read_once_and_again_when_a_file_changes(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "run" / "headers.json"
    opened: list[Path] = []
    read = corpus._read_header
    monkeypatch.setattr(corpus, "_read_header", lambda path: opened.append(path) or read(path))

    def found() -> Corpus:
        opened.clear()
        return find_corpus([recordings], min_samples=40, cache=cache)

    (recordings / "empty.wav").touch()
    first = found()
    assert len(opened) == len(LENGTHS) + 1
    assert found() == first
    assert opened == []
    changed = write_noise(recordings / "speaker0" / "0.wav", 999)
    assert found().utterances[0].samples == 999
    assert opened == [changed]
    cache.write_text("{broken")
    found()
    assert len(opened) == len(LENGTHS) + 1


def test_the_fingerprint_follows_names_and_lengths_not_places(recordings: Path, tmp_path: Path) -> None:
    before = find_corpus([recordings], min_samples=40).fingerprint
    moved = recordings.rename(tmp_path / "elsewhere")
    assert find_corpus([moved], min_samples=40).fingerprint == before
    write_noise(moved / "speaker0" / "0.wav", 2399)
    assert find_corpus([moved], min_samples=40).fingerprint != before


def test_real_speech(real_speech: Path) -> None:
    found = find_corpus([real_speech / "libri_spk"], min_samples=400)
    assert found.utterances
    assert not found.skipped
    wav = found.utterances[0].read(0, min(16000, found.utterances[0].samples))
    assert 0.001 < wav.std() < 1
