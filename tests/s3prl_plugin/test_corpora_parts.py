"""The parts themselves: vocabularies in s3prl's order, csv files, lexicons, kaldi folders, sliding buckets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.parts import libri2mix, librispeech, vocabularies
from pruned_upstream.s3prl_plugin.parts.ctc.corpus.buckets import BucketedUtterances
from pruned_upstream.s3prl_plugin.parts.ctc.corpus.libriphone import LibriPhoneDataset
from pruned_upstream.s3prl_plugin.parts.ctc.corpus.snips import SnipsDataset


class WordTokenizer:
    """s3prl's word tokenizer over the phonemes, without s3prl: 0, 1, 2 are padding, end and unknown."""

    unk_idx = 2

    def vocab_to_idx(self, symbol):
        return vocabularies.PHONEMES.index(symbol) + 3 if symbol in vocabularies.PHONEMES else self.unk_idx

    def encode(self, text):
        return [self.vocab_to_idx(symbol) for symbol in text.split()] + [1]


def test_vocabularies_have_s3prls_sizes_and_order(tmp_path):
    # s3prl: 71 phonemes beginning SIL SPN AA0 and ending Z ZH, 28 characters beginning with the blank; 28 for ASR
    assert len(vocabularies.PHONEMES) == 71
    assert vocabularies.PHONEMES[:5] == ("SIL", "SPN", "AA0", "AA1", "AA2")
    assert vocabularies.PHONEMES[-2:] == ("Z", "ZH")
    assert (len(vocabularies.CHARACTERS), vocabularies.CHARACTERS[:2]) == (28, (" ", "A"))
    assert len(vocabularies.ASR_CHARACTERS) == len(set(vocabularies.ASR_CHARACTERS)) == 28
    assert vocabularies.write_characters(tmp_path / "c").read_text().split("\n") == list(vocabularies.CHARACTERS)


def test_s3prl_reads_the_written_vocabularies(tmp_path):
    pytest.importorskip("s3prl")
    from pruned_upstream.s3prl_plugin.registry import register

    register()
    from s3prl.downstream.asr.dictionary import Dictionary
    from s3prl.downstream.ctc.text import load_text_encoder

    phonemes = load_text_encoder("word", str(vocabularies.write_phonemes(tmp_path / "p")))
    assert phonemes.decode(phonemes.encode("SIL AA1 ZH")) == "SIL AA1 ZH"
    assert phonemes.vocab_size == 74
    letters = Dictionary.load(str(vocabularies.write_asr_dictionary(tmp_path / "d")))
    assert len(letters) == 4 + 28
    assert letters.index("|") == 4


def write_chapter(root: Path, split: str, lines: str) -> None:
    chapter = root / split / "1/2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text(lines)


def test_transcripts_go_to_csv_and_back(tmp_path):
    write_chapter(tmp_path, "dev-clean", '1-2-0001 GO, "GO"\n1-2-0000 STOP\n')
    found = librispeech.find_utterances(tmp_path, ["dev-clean"])
    assert [utterance.name for utterance in found] == ["1-2-0000", "1-2-0001"]
    assert librispeech.read_transcripts_csv(librispeech.write_transcripts_csv(tmp_path / "dev.csv", found)) == found


@pytest.mark.parametrize("lines", ["1-2-0000\n", ""])
def test_damaged_transcripts_are_named(tmp_path, lines):
    if lines:
        write_chapter(tmp_path, "dev-clean", lines)
    with pytest.raises(DataError, match="dev-clean"):
        librispeech.find_utterances(tmp_path, ["dev-clean"])


def test_lengths_are_in_samples_the_longest_first(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    write_chapter(tmp_path, "dev-clean", "")
    for name, samples in (("a", 100), ("b", 300), ("c", 200)):
        soundfile.write(tmp_path / f"dev-clean/1/2/{name}.flac", np.zeros(samples), 16000)
    path = librispeech.write_lengths_csv(tmp_path / "len/dev-clean.csv", tmp_path, "dev-clean")
    assert path.read_text().splitlines() == [
        ",file_path,length,label",
        "0,dev-clean/1/2/b.flac,300,",
        "1,dev-clean/1/2/c.flac,200,",
        "2,dev-clean/1/2/a.flac,100,",
    ]


def test_the_first_pronunciation_counts(tmp_path):
    (tmp_path / "a").write_text("READ\tR IY1 D\nREAD R EH1 D\n\n")
    (tmp_path / "b").write_text("READ X\nON AA1 N\n")
    assert librispeech.read_lexicon([tmp_path / "a", tmp_path / "b"]) == {"READ": ("R", "IY1", "D"), "ON": ("AA1", "N")}
    (tmp_path / "b").write_text("ON\n")
    with pytest.raises(DataError, match="line 1: the word ON"):
        librispeech.read_lexicon([tmp_path / "b"])


def test_buckets_slide_and_the_last_are_full():
    utterances = [(str(length), [0] * length) for length in (1, 4, 2, 3)]
    buckets = BucketedUtterances(utterances, 3)
    assert [[name for name, _ in buckets[index]] for index in range(len(buckets))] == [
        ["4", "3", "2"],
        ["3", "2", "1"],
        ["3", "2", "1"],
        ["3", "2", "1"],
    ]
    assert [BucketedUtterances(utterances, 1)[index][0] for index in range(4)] == ["4", "3", "2", "1"]
    assert len(BucketedUtterances(utterances, 9)[0]) == 4


@pytest.mark.parametrize("form", ["path", "csv_dir"])
def test_words_become_phonemes(tmp_path, form):
    write_chapter(tmp_path, "dev-clean", "1-2-0000 GO ON\n1-2-0001 ON\n")
    (tmp_path / "lexicon").write_text("GO G OW1\nON AA1 N\n")
    where = {"path": str(tmp_path)}
    split = ["dev-clean"]
    if form == "csv_dir":
        librispeech.write_transcripts_csv(tmp_path / "dev.csv", librispeech.find_utterances(tmp_path, split))
        where, split = {"csv_dir": str(tmp_path)}, "dev.csv"
    dataset = LibriPhoneDataset(split, WordTokenizer(), 1, lexicon=[str(tmp_path / "lexicon")], ratio=1.0, **where)
    path, tokens = dataset[0]
    assert path == str(tmp_path / "dev-clean/1/2/1-2-0000.flac")
    assert tokens == WordTokenizer().encode("G OW1 AA1 N")
    assert len(dataset) == 2


@pytest.mark.parametrize(("lexicon", "words"), [("GO G OW1\n", "e.g. ON"), ("GO G OW9\nON AA1 N\n", "OW9")])
def test_unknown_words_and_phonemes_are_named(tmp_path, lexicon, words):
    write_chapter(tmp_path, "dev-clean", "1-2-0000 GO ON\n")
    (tmp_path / "lexicon").write_text(lexicon)
    with pytest.raises(DataError, match=words):
        LibriPhoneDataset(["dev-clean"], WordTokenizer(), 1, lexicon=[str(tmp_path / "lexicon")], path=str(tmp_path))


class LengthTokenizer:
    slots = ("B-city", "E-city")

    def encode(self, text):
        return [0] * len(text)


def test_snips_takes_the_speakers_of_the_split(tmp_path):
    (tmp_path / "all.iob.snips.txt").write_text(
        "Ivy-snips-train-0 BOS GO EOS\tO O i\nAmy-snips-train-0 BOS A EOS\tO O i\n"
    )
    (tmp_path / "train").mkdir()
    for name in ("Ivy-snips-train-0", "Amy-snips-train-0", "Ivy-snips-train-1"):
        (tmp_path / "train" / f"{name}.wav").touch()
    dataset = SnipsDataset(["train"], LengthTokenizer(), 1, path=str(tmp_path), train_speakers=["Ivy"])
    assert [dataset[0]] == [(str(tmp_path / "train/Ivy-snips-train-0.wav"), [0] * len("BOS GO EOS\tO O i"))]
    assert len(SnipsDataset(["train"], LengthTokenizer(), 1, path=str(tmp_path))) == 2
    with pytest.raises(DataError, match="valid holds no .wav"):
        SnipsDataset(["valid"], LengthTokenizer(), 1, path=str(tmp_path))


def test_a_kaldi_folder_is_written_from_librimix(tmp_path):
    turns, mixtures = tmp_path / "test_clean.rttm", tmp_path / "mixtures.csv"
    turns.write_text(
        "SPEAKER 10-0001 1 0.5 1.0 <NA> <NA> 61 <NA> <NA>\nSPEAKER 20-0002 1 0.25 0.5 <NA> <NA> 121 <NA> <NA>\n"
    )
    header = "mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length\n"
    row = "61-10-0001_121-20-0002,/elsewhere/Libri2Mix/wav16k/max/test/mix_both/m.wav,a,b,c,32000\n"
    mixtures.write_text(header + row)
    folder = libri2mix.write_kaldi_folder(
        tmp_path / "test", mixtures=mixtures, turns=turns, libri2mix=tmp_path / "Libri2Mix"
    )
    mixture = "61-10-0001_121-20-0002"
    assert (folder / "wav.scp").read_text() == f"{mixture} {tmp_path}/Libri2Mix/wav16k/max/test/mix_both/m.wav\n"
    assert (folder / "reco2dur").read_text() == f"{mixture} 2.0\n"
    assert (folder / "segments").read_text().splitlines() == [
        f"121_{mixture}_000250_000750 {mixture} 0.25 0.75",
        f"61_{mixture}_000500_001500 {mixture} 0.5 1.5",
    ]
    assert (folder / "rttm").read_text().splitlines()[1] == f"SPEAKER {mixture} 1 0.5 1.0 <NA> <NA> 61 <NA>"
    assert (folder / "spk2utt").read_text().splitlines()[1] == f"61 61_{mixture}_000500_001500"

    turns.write_text("SPEAKER 10-0001 1 0.5 1.0 <NA> <NA> 61 <NA> <NA>\n")
    with pytest.raises(DataError, match="no turns of 121-20-0002"):
        libri2mix.write_kaldi_folder(tmp_path / "x", mixtures=mixtures, turns=turns, libri2mix=tmp_path)
