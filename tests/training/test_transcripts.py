"""Transcripts as LibriSpeech, Libri-light and fairseq lay them out, and what cannot be learned from."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_config
from training.conftest import write_noise

from pruned_upstream.errors import DataError
from pruned_upstream.parp.alphabet import Alphabet
from pruned_upstream.training.transcripts import find_transcribed, trainable


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Two chapters of a Libri-light fold; one recording has no transcript."""
    folder = tmp_path / "1h" / "0" / "clean"
    for chapter, texts in (("12/34", ["A CAT", "THE DOG"]), ("56/78", ["SO"])):
        speaker, book = chapter.split("/")
        names = [f"{speaker}-{book}-{number:04d}" for number in range(len(texts))]
        for name in names:
            write_noise(folder / chapter / f"{name}.flac", 900)
        lines = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
        (folder / chapter / f"{speaker}-{book}.trans.txt").write_text("\n".join(lines) + "\n")
    write_noise(folder / "56/78" / "56-78-0009.flac", 900)
    return tmp_path / "1h"


def manifest(folder: Path, texts: list[str], ending: str) -> Path:
    names = [f"{number}.wav" for number in range(len(texts))]
    for name in names:
        write_noise(folder / "audio" / name, 900)
    (folder / "train.tsv").write_text("\n".join(["audio", *(f"{name}\t900" for name in names)]) + "\n")
    (folder / f"train{ending}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder / "train.tsv"


def test_librispeech_and_libri_light(librispeech: Path) -> None:
    found = find_transcribed([librispeech], "letters", min_samples=100)
    names = [Path(utterance.name).stem for utterance in found.corpus.utterances]
    assert dict(zip(names, found.texts, strict=True)) == {
        "12-34-0000": "A CAT",
        "12-34-0001": "THE DOG",
        "56-78-0000": "SO",
    }
    assert found.corpus.skipped == {"0/clean/56/78/56-78-0009.flac": "it has no transcript"}


@pytest.mark.parametrize(
    ("ending", "labels", "texts", "wanted"),
    [
        (".wrd", "letters", ["so it is", "Yes"], ["SO IT IS", "YES"]),
        (".wrd", "characters", ["schön  ja", "No"], ["schön ja", "No"]),
        (".ltr", "letters", ["S O | I T |", "Y E S |"], ["SO IT", "YES"]),
        (".phn", "phones", ["t aI", "m"], ["t aI", "m"]),
    ],
)
def test_fairseqs_files(tmp_path: Path, ending: str, labels: str, texts: list[str], wanted: list[str]) -> None:
    assert find_transcribed([manifest(tmp_path, texts, ending)], labels, min_samples=100).texts == wanted


def test_phones_in_folders(tmp_path: Path) -> None:
    write_noise(tmp_path / "a" / "x.wav", 900)
    (tmp_path / "a" / "all.phn.txt").write_text("x t aI\nabsent m\n")
    assert find_transcribed([tmp_path], "phones", min_samples=100).texts == ["t aI"]


def test_several_sources_with_the_same_names(tmp_path: Path) -> None:
    """The name of its source stands in front of each."""
    sources = [manifest(tmp_path / language, [language], ".wrd") for language in ("ja", "no")]
    found = find_transcribed(sources, "characters", min_samples=100)
    assert found.texts == ["ja", "no"]
    assert [utterance.name for utterance in found.corpus.utterances] == ["train/0.wav", "train-2/0.wav"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    tsv = manifest(tmp_path, ["A", "B"], ".wrd")
    with pytest.raises(DataError, match=r"no \.phn beside .*train\.tsv, which phones are read from"):
        find_transcribed([tsv], "phones", min_samples=100)
    (tmp_path / "train.wrd").write_text("A\n")
    with pytest.raises(DataError, match=r"train\.wrd has 1 lines and .*train\.tsv lists 2 recordings"):
        find_transcribed([tsv], "letters", min_samples=100)
    with pytest.raises(DataError, match=r"none of the recordings .* \*\.trans\.txt in a folder"):
        find_transcribed([tmp_path / "audio"], "letters", min_samples=100)
    with pytest.raises(DataError, match="no folder or manifest"):
        find_transcribed([tmp_path / "absent"], "letters", min_samples=100)


def test_what_ctc_cannot_learn_is_left_out_with_its_reason(tmp_path: Path) -> None:
    tsv = manifest(tmp_path, ["A B", "NAÏVE", "A" * 30, "B"], ".wrd")
    write_noise(tmp_path / "audio" / "3.wav", 4000)
    alphabet, config = Alphabet.of("letters", []), tiny_config()
    found = find_transcribed([tsv], "letters", min_samples=config.receptive_field)
    kept = trainable(found, alphabet, config, max_seconds=0.1)
    assert kept.texts == ["A B"]
    assert [utterance.name for utterance in kept.corpus.utterances] == ["0.wav"]
    reasons = kept.corpus.skipped
    assert "symbols that the alphabet lacks: Ï" in reasons["1.wav"]
    frames = config.frames(900)
    assert f"its {frames} frames are fewer than the 59 that" in reasons["2.wav"]
    assert "more than data.max_seconds" in reasons["3.wav"]
    with pytest.raises(DataError, match="no recording can be learned from; of 0.wav"):
        trainable(found, alphabet, config, max_seconds=0.001)
