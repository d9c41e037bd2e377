"""The data check: complete corpora pass, and every kind of damage is named with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.parts import snips
from pruned_upstream.superb import configuration, layout, official
from pruned_upstream.superb.contradictions import REASONS
from pruned_upstream.superb.layout import Data, take_inventory
from pruned_upstream.superb.tasks import TASKS

soundfile = pytest.importorskip("soundfile")


def write_audio(path: Path, samples: int = 160, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((samples, channels)), rate)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_librispeech(root: Path) -> None:
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = root / "LibriSpeech" / split / "84/121"
        write_text(chapter / "84-121.trans.txt", "84-121-0000 GO ON\n84-121-0001 GO\n")
        for number in range(2):
            write_audio(chapter / f"84-121-000{number}.flac")
    write_text(root / "LibriSpeech/librispeech-lexicon.txt", "GO G OW1\nON AA1 N\n")


def write_keywords(root: Path) -> None:
    for name in layout.KEYWORD_CLASSES:
        write_audio(root / "speech_commands_test_set_v0.01" / name / "x_nohash_0.wav")
    for name in layout.KEYWORD_CLASSES[:10]:
        for speaker in ("x", "z"):  # by s3prl's hash, of the training and the development set
            write_audio(root / "speech_commands_v0.01" / name / f"{speaker}_nohash_0.wav")
    write_audio(root / "speech_commands_v0.01/_background_noise_/hum.wav", 16000)


def write_quesst(root: Path) -> None:
    corpus = root / "quesst14Database"
    for key, name in {"utterances": "Audio/u.wav", "dev": "dev_queries/d.wav", "eval": "eval_queries/e.wav"}.items():
        write_audio(corpus / name)
        write_text(
            corpus / f"scoring/language_key_{key}.lst",
            f"quesst14Database/{name} nnenglish\nquesst14Database/a.wav czech\n",
        )
    truth = {
        "rttm": "LEXEME u 1 0.0 1.0 d lex <NA> <NA>\n",
        "ecf.xml": '<ecf><excerpt audio_filename="u"/><excerpt audio_filename="v"/></ecf>',
        "tlist.xml": '<termlist><term termid="d"/></termlist>',
    }
    for split in ("dev", "eval"):
        for suffix, text in truth.items():
            write_text(corpus / f"scoring/groundtruth_quesst14_{split}/x.{suffix}", text)


def write_voxceleb(root: Path) -> None:
    corpus = root / "VoxCeleb1"
    write_audio(corpus / "dev/wav/id10001/v/00001.wav")
    for number in range(3):
        write_audio(corpus / f"test/wav/id10270/v/0000{number}.wav")
    split = "1 id10001/v/00001.wav\n2 id10270/v/00000.wav\n3 id10270/v/00001.wav\n"
    write_text(corpus / "veri_test_class.txt", split)
    trials = "1 id10270/v/00001.wav id10270/v/00002.wav\n0 id10270/v/00001.wav id10270/v/00000.wav\n"
    write_text(corpus / "voxceleb1_test_v2.txt", trials)


def write_diarization(root: Path) -> None:
    for split in ("train", "dev", "test"):
        folder = root / "diarization" / split
        write_audio(folder / "wav/rec.wav", 16000)
        write_text(folder / "segments", "a-1 rec 0.1 0.5\nb-1 rec 0.4 1.0\n")
        write_text(folder / "utt2spk", "a-1 a\nb-1 b\n")
        write_text(folder / "spk2utt", "a a-1\nb b-1\n")
        write_text(folder / "reco2dur", "rec 1.0\n")
        turns = {"a": "0.1 0.4", "b": "0.4 0.6"}
        write_text(
            folder / "rttm", "".join(f"SPEAKER rec 1 {turn} <NA> <NA> {name} <NA>\n" for name, turn in turns.items())
        )


def write_commands(root: Path) -> None:
    corpus = root / "fluent_speech_commands_dataset"
    for part in ("train", "valid", "test"):
        name = f"wavs/speakers/s/{part}.wav"
        write_audio(corpus / name)
        write_text(corpus / f"data/{part}_data.csv", f"path,action,object,location\n{name},bring,tea,none\n")


def write_snips(root: Path) -> None:
    corpus = root / "SNIPS"
    voices = {"train": "Ivy", "valid": "Amy", "test": "Emma"}
    sentences = [f"{voice}-snips-{part}-0 BOS GO ROME EOS\tO O city intent\n" for part, voice in voices.items()]
    write_text(corpus / "all.iob.snips.txt", "".join(sentences))
    write_text(corpus / "slots.txt", "O\ncity\n")
    for part, voice in voices.items():
        write_audio(corpus / part / f"{voice}-snips-{part}-0.wav")


def write_iemocap(root: Path) -> None:
    corpus = root / "IEMOCAP"
    for session in official.FOLDS:
        name = f"{session}/sentences/wav/d/{session}_a.wav"
        write_audio(corpus / name)
        write_text(
            corpus / session / "dialog/EmoEvaluation/d.txt",
            f"% header\n[1.0 - 2.0]\t{session}_a\texc\t[2.5, 2.5, 2.5]\n[2.0 - 3.0]\t{session}_b\tang\t[1, 1, 1]\n",
        )
        other = "Session2" if session == "Session1" else "Session1"
        for part, whose in {"train": other, "test": session}.items():
            entry = {"path": name.replace(session, whose), "label": "neu", "speaker": "a"}
            fold = {"labels": {"neu": 0, "hap": 1, "ang": 2, "sad": 3}, "meta_data": [entry]}
            write_text(corpus / "meta_data" / session / f"{part}_meta_data.json", json.dumps(fold))


@pytest.fixture
def corpora(tmp_path) -> Path:
    for write in (
        write_librispeech,
        write_keywords,
        write_quesst,
        write_voxceleb,
        write_diarization,
        write_commands,
        write_snips,
        write_iemocap,
    ):
        write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_a_complete_corpus_is_ready_and_a_small_one_is_not_official(corpora, task):
    inventory = take_inventory(task, Data(corpora))
    assert inventory.problems == []
    assert inventory.deviations(task)[0].startswith("not the official data")


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_root_is_not_ready(tmp_path, task):
    assert "is missing" in take_inventory(task, Data(tmp_path)).problems[0]


DAMAGES = [
    ("pr", "LibriSpeech/dev-clean/84/121/84-121-0001.flac", "1 of 2 recordings of dev-clean are missing"),
    ("asr", "LibriSpeech/test-clean/84/121/84-121.trans.txt", "not LibriSpeech's layout"),
    ("pr", "LibriSpeech/librispeech-lexicon.txt", "no librispeech-lexicon"),
    ("ks", "speech_commands_test_set_v0.01/stop/x_nohash_0.wav", None),
    ("qbe", "quesst14Database/dev_queries/d.wav", "language_key_dev.lst are missing"),
    ("qbe", "quesst14Database/scoring/groundtruth_quesst14_eval/x.rttm", "exactly one *.rttm"),
    ("sid", "VoxCeleb1/veri_test_class.txt", "clone of s3prl"),
    ("sid", "VoxCeleb1/dev/wav/id10001/v/00001.wav", "veri_test_class.txt, train are missing"),
    ("sv", "VoxCeleb1/test/wav/id10270/v/00002.wav", "voxceleb1_test_v2.txt are missing"),
    ("sd", "diarization/test/rttm", "part of a kaldi folder"),
    ("ic", "fluent_speech_commands_dataset/data/valid_data.csv", "the list of commands"),
    ("sf", "SNIPS/slots.txt", "the names of the slots"),
    ("sf", "SNIPS/valid/Amy-snips-valid-0.wav", "holds no .wav file"),
    ("er", "IEMOCAP/Session3/sentences/wav/d/Session3_a.wav", "recordings of Session3 are missing"),
]


@pytest.mark.parametrize("fold", ["[]", "3", "{", '{"labels": {"neu": 0}, "meta_data": {}}', "\ud800", "[" * 100_000])
def test_metadata_that_are_no_mapping_are_named(corpora, fold):
    (corpora / "IEMOCAP/meta_data/Session2/test_meta_data.json").write_bytes(fold.encode("utf-8", "surrogatepass"))
    problems = take_inventory("er", Data(corpora)).problems
    assert len(problems) == 1 and "Session2/test_meta_data.json" in problems[0]


COMMANDS = "fluent_speech_commands_dataset/data/train_data.csv"


@pytest.mark.parametrize(
    ("task", "path", "content", "words"),
    [
        ("sv", "VoxCeleb1/voxceleb1_test_v2.txt", b"", "voxceleb1_test_v2.txt is empty"),
        ("sv", "VoxCeleb1/voxceleb1_test_v2.txt", b"1\n", "the line '1' is damaged"),
        ("sv", "VoxCeleb1/voxceleb1_test_v2.txt", b"\0\0\0\n", "is damaged"),
        ("sv", "VoxCeleb1/voxceleb1_test_v2.txt", b"1 caf\xe9.wav b.wav\n", "voxceleb1_test_v2.txt is not UTF-8"),
        ("sv", "VoxCeleb1/voxceleb1_test_v2.txt", b"7 a.wav b.wav\n", "is no list of trials"),
        ("sid", "VoxCeleb1/veri_test_class.txt", b"id1/a.wav\n", "the line 'id1/a.wav' is damaged"),
        ("sid", "VoxCeleb1/veri_test_class.txt", b"9 id10001/v/a.wav\n", "for part '9'"),
        ("sid", "VoxCeleb1/veri_test_class.txt", b"1 id10001/v/00001.wav\n", "lists no recording for dev"),
        ("asr", "LibriSpeech/dev-clean/84/121/84-121.trans.txt", b"", "dev-clean name no recording"),
        ("pr", "LibriSpeech/dev-clean/84/121/84-121.trans.txt", b"a-b caf\xe9\n", "84-121.trans.txt is not UTF-8"),
        ("sd", "diarization/train/segments", b"", "segments is empty"),
        ("sd", "diarization/dev/rttm", b"\xff\xfe\0\n", "rttm is not UTF-8: see line 1"),
        ("sd", "diarization/dev/utt2spk", b"one\n", "line 1: 'one' is damaged"),
        ("ic", COMMANDS, b"path,action,object,location\nx\n", "train_data.csv, line 2: there is no action"),
        ("ic", COMMANDS, b"path,action,object,location\n\0,a,b,c\n", "train_data.csv"),
        ("sf", "SNIPS/all.iob.snips.txt", b"\xff\xfe", "all.iob.snips.txt is not UTF-8"),
        ("sf", "SNIPS/slots.txt", b"", "slots.txt is empty"),
        (
            "er",
            "IEMOCAP/meta_data/Session1/train_meta_data.json",
            b'{"labels": {"neu": 0, "hap": 1, "ang": 2, "sad": 3}, "meta_data": []}',
            "train_meta_data.json lists no recording",
        ),
    ],
)
def test_a_damaged_list_is_named(corpora, task, path, content, words):
    assert (corpora / path).exists()
    (corpora / path).write_bytes(content)
    problems = take_inventory(task, Data(corpora)).problems
    assert any(words in problem for problem in problems), problems


def put(new: str) -> Callable[[str], str]:
    return lambda text: new


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def add(line: str) -> Callable[[str], str]:
    return lambda text: text + line


def twice(text: str) -> str:
    return text + text.splitlines(keepends=True)[-1]


SEGMENTS, SENTENCES, SLOTS = "diarization/train/segments", "SNIPS/all.iob.snips.txt", "SNIPS/slots.txt"
TRIALS, SPLITS = "VoxCeleb1/voxceleb1_test_v2.txt", "VoxCeleb1/veri_test_class.txt"
VALID = "fluent_speech_commands_dataset/data/valid_data.csv"
KEY = "quesst14Database/scoring/language_key_dev.lst"
TRUTH = "quesst14Database/scoring/groundtruth_quesst14_dev/x"
FOLD = "IEMOCAP/meta_data/Session2"
CHAPTER = "LibriSpeech/test-clean/84/121/84-121.trans.txt"
WRONG = [
    ("sd", SEGMENTS, swap("0.1", "nan"), "segments: 'nan' is no number of seconds"),
    ("sd", SEGMENTS, swap("0.1", "abc"), "segments: 'abc' is no number of seconds"),
    ("sd", SEGMENTS, swap("0.1", "-1"), "segments: '-1' is no number of seconds"),
    ("sd", SEGMENTS, swap("0.5", "inf"), "segments: 'inf' is no number of seconds"),
    ("sd", SEGMENTS, swap("0.1 0.5", "0.5 0.1"), "goes from 0.5 to 0.1 s in a recording of 1 s"),
    ("sd", SEGMENTS, swap("1.0", "99"), "goes from 0.4 to 99 s in a recording of 1 s"),
    ("sd", SEGMENTS, swap("a-1 rec", "a-1 other"), "segments: the recording 'other' is not in the folder wav"),
    ("sd", SEGMENTS, swap("b-1", "a-1"), "segments: the utterance 'a-1' stands in several lines"),
    ("sd", SEGMENTS, swap("0.5", "0.5 9"), "segments, line 1: 'a-1 rec 0.1 0.5 9' is damaged"),
    ("sd", SEGMENTS, add("\n"), "segments, line 3: '' is damaged"),
    ("sd", SEGMENTS, add("c-1 rec 0.4 0.5\n"), "utt2spk: the utterance 'c-1' of segments is not in it"),
    ("sd", "diarization/dev/utt2spk", put("a-1 a\n"), "utt2spk: the utterance 'b-1' of segments is not in it"),
    ("sd", "diarization/dev/utt2spk", add("c-1 c\n"), "utt2spk: the utterance 'c-1' is not in segments"),
    ("sd", "diarization/dev/spk2utt", add("c c-1\n"), "spk2utt: the utterance 'c-1' is not in segments"),
    ("sd", "diarization/test/reco2dur", put("rec long\n"), "reco2dur: 'long' is no number of seconds"),
    ("sd", "diarization/test/reco2dur", put("rec 7.5\n"), "says that 'rec' lasts 7.5 s; it lasts 1 s"),
    ("sd", "diarization/test/reco2dur", put("car 1\n"), "the recording 'car' is not in the folder wav"),
    ("sd", "diarization/test/rttm", swap("0.4", "x"), "rttm: 'x' is no number of seconds"),
    ("sd", "diarization/test/rttm", swap("0.4", "99"), "rttm: a turn goes from 0.1 s on for 99 s"),
    ("sd", "diarization/test/rttm", put("SPEAKER rec 1 0.1 0.4 <NA>\n"), "rttm, line 1"),
    ("sd", "diarization/test/rttm", put("SPKR-INFO rec 1 <NA> <NA> <NA> unknown a <NA>\n"), "rttm is empty"),
    ("sd", "diarization/test/wav.scp", put("rec nowhere.wav\n"), "diarization/test are missing, e.g. nowhere.wav"),
    ("sd", "diarization/test/wav.scp", put("rec\n"), "wav.scp, line 1: 'rec' is damaged"),
    ("sf", SENTENCES, swap("\t", "    "), "all.iob.snips.txt, line 1"),
    ("sf", SENTENCES, swap("O O city intent", "O O intent"), "'Ivy-snips-train-0' has 4 words and 3 slots"),
    ("sf", SENTENCES, lambda text: text[: len(text) // 2], "all.iob.snips.txt, line 2"),
    ("sf", SENTENCES, put("Ivy-snips-train-0 BOS GO EOS\tO O intent\n"), "1 of 1 recordings of SNIPS/valid have no"),
    ("sf", SENTENCES, add("Ivy-snips-train-0 BOS A EOS\tO O intent\n"), "has a second, another sentence"),
    ("sf", SLOTS, swap("city", "town"), "slots.txt lacks the slot 'city'"),
    ("sf", SLOTS, put("city\nO\n"), "its first line is O"),
    ("sv", TRIALS, lambda text: text.replace("0 ", "1 "), "has trials of the same speaker alone"),
    ("sv", TRIALS, lambda text: text.replace("1 ", "0 "), "has trials of different speakers alone"),
    ("sv", TRIALS, add("0 id10270/v/00001.wav id10270/v/00002.wav\n"), "with both labels"),
    ("sv", TRIALS, add("1 id10270/v/00001.wav id10270/v/9.wav\n"), "1 of 4 recordings of voxceleb1_test_v2.txt"),
    ("sv", TRIALS, add("\n"), "line 3 is empty"),
    ("sid", SPLITS, swap("id10001/v", "id20001/v"), "the speakers of VoxCeleb1 are id10001 to id11251"),
    ("sid", SPLITS, swap("id10001/v", "ann/v"), "lists 'ann/v/00001.wav'; the speakers"),
    ("ic", VALID, swap("none", "None"), "valid_data.csv, line 2: there is no location"),
    ("ic", VALID, swap("valid.wav", "gone.wav"), "1 of 1 recordings of valid_data.csv are missing"),
    ("ic", VALID, put("path,action,object,location\n"), "valid_data.csv lacks lines"),
    ("ic", VALID, put("path,action\na,b\n"), "valid_data.csv lacks the columns object, location"),
    ("ic", VALID, add("a,b,c,d,e,f\n"), "valid_data.csv cannot be read as a csv file"),
    ("er", f"{FOLD}/train_meta_data.json", swap('"label": "neu"', '"label": "joy"'), "is not the metadata"),
    ("er", f"{FOLD}/train_meta_data.json", swap('"neu": 0, "hap": 1', '"neu": 1, "hap": 0'), "in several ways"),
    ("asr", CHAPTER, put("84-121-0000 GO ON\n"), "1 recordings of test-clean have no transcript"),
    ("asr", CHAPTER, twice, "84-121-0001.flac' several times"),
    ("asr", CHAPTER, swap("ON", "ÖL 7"), "characters outside the dictionary: 7 Ö"),
    ("asr", CHAPTER, add("84-121-0009 GO\n"), "1 of 3 recordings of test-clean are missing"),
    ("pr", "LibriSpeech/librispeech-lexicon.txt", add("OW OW9\n"), "phonemes outside the vocabulary: OW9"),
    ("qbe", f"{TRUTH}.ecf.xml", lambda text: text[:30], "x.ecf.xml cannot be read as XML"),
    ("qbe", f"{TRUTH}.tlist.xml", swap("termid", "id"), "lacks the attribute termid"),
    ("qbe", f"{TRUTH}.rttm", put("LEXEME u 1\n"), "x.rttm, line 1"),
    ("qbe", f"{TRUTH}.rttm", put(""), "no query of the term list occurs"),
    ("qbe", f"{TRUTH}.rttm", add("LEXEME v 1 0.0 1.0 d lex <NA> <NA>\n"), "'d' occurs in every recording"),
    ("qbe", KEY, swap("nnenglish", "nnenglish x"), "is damaged"),
    ("qbe", KEY, swap("nnenglish", "english"), "names no English recording"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "path", "change", "words"), WRONG, ids=[f"{task}-{words}" for task, *_, words in WRONG]
)
def test_what_a_list_says_wrongly_is_named(corpora, task, path, change, words):
    """With each of these s3prl stopped in a traceback, or went on without a word."""
    file = corpora / path
    write_text(file, change(file.read_text() if file.exists() else ""))
    problems = take_inventory(task, Data(corpora)).problems
    assert any(words in problem for problem in problems), problems


REPEATED = [
    ("sv", TRIALS, add("1 id10270/v/00001.wav id10270/v/00002.wav\n"), "has 1 of 3 trials a second time"),
    ("sid", SPLITS, add("3 id10001/v/00001.wav\n"), "veri_test_class.txt: 'id10001/v/00001.wav' several times"),
    ("ic", VALID, swap("valid.wav", "train.wav"), "together: 'wavs/speakers/s/train.wav' several times"),
    ("ic", VALID, twice, "together: 'wavs/speakers/s/valid.wav' several times"),
    ("er", f"{FOLD}/test_meta_data.json", lambda text: text.replace("Session2", "Session1"), " of the wrong session"),
    ("er", f"{FOLD}/train_meta_data.json", lambda text: text.replace("Session1", "Session2"), " of the wrong session"),
    ("er", f"{FOLD}/test_meta_data.json", lambda text: text.replace("}]}", "}, " + text[text.index('{"path') :]),
     "_a.wav' several times"),
    ("qbe", KEY, lambda text: text * 2, "dev_queries/d.wav' several times"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "path", "change", "words"), REPEATED)
def test_what_stands_in_lists_repeatedly_is_said_and_not_official(corpora, task, path, change, words):
    write_text(corpora / path, change((corpora / path).read_text()))
    found = take_inventory(task, Data(corpora))
    assert found.problems == []
    assert any(words in deviation for deviation in found.deviations(task)), found.deviations(task)
    assert all(REASONS.search(deviation) for deviation in found.deviations(task))


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("asr", "LibriSpeech/dev-clean/84/121/84-121-0000.flac"),
        ("sid", "VoxCeleb1/dev/wav/id10001/v/00001.wav"),
        ("ic", "fluent_speech_commands_dataset/wavs/speakers/s/train.wav"),
        ("sf", "SNIPS/train/Ivy-snips-train-0.wav"),
        ("er", "IEMOCAP/Session1/sentences/wav/d/Session1_a.wav"),
        ("sd", "diarization/dev/wav/rec.wav"),
        ("ks", "speech_commands_v0.01/yes/x_nohash_0.wav"),
        ("qbe", "quesst14Database/Audio/u.wav"),
        ("sv", "VoxCeleb1/dev/wav/id10001/v/00001.wav"),
    ],
)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 1), (16000, 2)])
def test_recordings_that_are_taken_as_they_are_must_be_of_one_format(corpora, task, path, rate, channels):
    assert (corpora / path).exists()
    write_audio(corpora / path, samples=rate, rate=rate, channels=channels)
    problems = take_inventory(task, Data(corpora)).problems
    if task in ("ks", "qbe", "sv"):
        assert problems == []
    else:
        assert any(f"{path} has {rate} Hz and {channels} channel" in problem for problem in problems), problems


def test_noise_from_which_nothing_can_be_cut_and_parts_without_a_recording_are_named(corpora):
    write_audio(corpora / "speech_commands_v0.01/_background_noise_/hum.wav", 15999)
    for recording in (corpora / "speech_commands_v0.01").glob("*/x_*.wav"):
        recording.unlink()
    found = take_inventory("ks", Data(corpora))
    (noise,) = found.problems
    assert "hum.wav lasts 0.999938 s" in noise
    assert "the development set is background noise alone" in found.deviations("ks")
    assert all(REASONS.search(deviation) for deviation in found.deviations("ks"))
    for recording in (corpora / "speech_commands_v0.01").glob("*/z_*.wav"):
        recording.unlink()
    assert "has no recording to train on" in take_inventory("ks", Data(corpora)).problems[1]


def test_what_macos_puts_beside_files_is_no_part_of_a_corpus(corpora):
    for path in ("LibriSpeech/dev-clean/84/121/._84-121-0000.flac", "SNIPS/train/._Ivy-snips-train-0.wav"):
        (corpora / path).write_bytes(b"\0\5\x16\7")
    (corpora / "IEMOCAP/Session1/dialog/EmoEvaluation/._d.txt").write_bytes(b"\0\5\x16\7\xff")
    for task in ("asr", "sf", "er"):
        assert take_inventory(task, Data(corpora)).problems == []
    for listing in (corpora / "IEMOCAP/meta_data").glob("*/*.json"):
        listing.unlink()
    (corpora / "IEMOCAP/meta_data").rename(corpora / "IEMOCAP/away")
    assert take_inventory("er", Data(corpora)).problems == []


def test_slot_filling_has_its_own_voices_in_folders_that_hold_all(corpora):
    """s3prl's snips_prepare_data.sh writes SNIPS/valid/Salli-snips-valid-168.wav, and Salli is for training."""
    before = take_inventory("sf", Data(corpora)).counts
    for part in ("train", "valid", "test"):
        for voice in ("Salli" if part != "train" else "Amy", "Zoe"):
            write_audio(corpora / "SNIPS" / part / f"{voice}-snips-{part}-7.wav")
    found = take_inventory("sf", Data(corpora))
    assert (found.problems, found.counts) == ([], before)


def test_the_voices_are_those_of_the_configuration():
    corpus = configuration.resolve(TASKS["sf"], {})[0]["downstream_expert"]["corpus"]
    assert {part: tuple(corpus[f"{part}_speakers"]) for part in ("train", "valid", "test")} == snips.SPEAKERS


def test_recordings_of_voxceleb_are_found_as_s3prl_finds_them(corpora):
    corpus = corpora / "VoxCeleb1"
    for folder in corpus.glob("*/wav/*/*"):
        (folder / "._00001.wav").write_bytes(b"\0\5\x16\7")
    write_audio(corpus / "dev/wav/id10001/v/00002.FLAC")
    (corpus / "test/wav/id10001").mkdir()
    for task, part in (("sv", "train"), ("sid", "train")):
        found = take_inventory(task, Data(corpora))
        assert found.problems == [] and found.counts[part] == {"sv": 2, "sid": 1}[task]
    (corpus / "dev").rename(corpus / "vox1_dev_wav")
    assert take_inventory("sid", Data(corpora)).problems == []


def test_folders_without_recordings_are_no_classes(corpora):
    for name in (".ipynb_checkpoints", "__MACOSX/yes"):
        (corpora / "speech_commands_test_set_v0.01" / name).mkdir(parents=True)
    assert take_inventory("ks", Data(corpora)).problems == []
    write_audio(corpora / "speech_commands_test_set_v0.01/cat/x_nohash_0.wav")
    assert "cat is none of the 12 test classes" in take_inventory("ks", Data(corpora)).problems[0]


def test_hidden_files_beside_the_truth_are_none_of_it(corpora):
    (corpora / "quesst14Database/scoring/groundtruth_quesst14_dev/._x.rttm").write_bytes(b"\0\5")
    assert take_inventory("qbe", Data(corpora)).problems == []


def test_a_flac_file_that_is_cut_off_is_named(corpora):
    path = corpora / "LibriSpeech/dev-clean/84/121/84-121-0000.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (problem,) = take_inventory("asr", Data(corpora)).problems
    assert str(path) in problem


def test_diarization_may_be_flac(corpora):
    for path in list((corpora / "diarization").glob("*/wav/rec.wav")):
        soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
        path.unlink()
    assert take_inventory("sd", Data(corpora)).problems == []


def test_what_else_lies_beside_recordings_of_diarization_is_none(corpora):
    before = take_inventory("sd", Data(corpora)).counts
    (corpora / "diarization/train/wav/NOTES.txt").write_text("mine")
    found = take_inventory("sd", Data(corpora))
    assert (found.problems, found.counts) == ([], before)


@pytest.mark.parametrize(("task", "path", "words"), DAMAGES, ids=lambda value: str(value)[-30:])
def test_what_is_missing_is_named(corpora, task, path, words):
    (corpora / path).unlink()
    problems = take_inventory(task, Data(corpora)).problems
    assert (not problems) if words is None else any(words in problem for problem in problems)


@pytest.mark.parametrize(("content", "words"), [(b"", "are empty"), (b"RIFFnonsense", "cannot be read as audio")])
def test_half_extracted_and_unreadable_audio_is_named(corpora, content, words):
    path = corpora / "LibriSpeech/train-clean-100/84/121/84-121-0000.flac"
    path.write_bytes(content)
    (problem,) = take_inventory("asr", Data(corpora)).problems
    assert words in problem
    assert path.name in problem


def test_values_that_training_never_sees_are_named(corpora):
    table = corpora / "fluent_speech_commands_dataset/data/test_data.csv"
    table.write_text("path,action,object,location\nwavs/speakers/s/test.wav,bring,coffee,none\n")
    assert "object 'coffee' does not occur" in take_inventory("ic", Data(corpora)).problems[0]


def test_words_without_pronunciation_are_named(corpora):
    (corpora / "LibriSpeech/librispeech-lexicon.txt").write_text("GO G OW1\n")
    assert (
        "1 words of the transcripts are not in the lexicon, e.g. ON" in take_inventory("pr", Data(corpora)).problems[0]
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_reasons_why_data_are_not_official_are_known_where_edited_files_are_held_against_them(corpora, task):
    (corpora / "VoxCeleb1/voxceleb1_test_v2.txt").rename(corpora / "VoxCeleb1/veri_test2.txt")
    reasons = take_inventory(task, Data(corpora)).deviations(task)
    assert reasons and all(REASONS.search(reason) for reason in reasons)


@pytest.fixture
def as_official(corpora, monkeypatch) -> Path:
    """The miniature VoxCeleb1 as if it were the official one."""
    trials = corpora / "VoxCeleb1/voxceleb1_test_v2.txt"
    monkeypatch.setitem(official.COUNTS, "sv", {"train": (1,), "trials": (2,)})
    monkeypatch.setitem(official.SHA256, trials.name, hashlib.sha256(trials.read_bytes()).hexdigest())
    return trials


def test_official_counts_and_lists_make_official_data_and_lists_carry_their_hash(corpora, as_official):
    inventory = take_inventory("sv", Data(corpora))
    assert inventory.deviations("sv") == []
    assert inventory.lists[as_official.name] == official.SHA256[as_official.name]


@pytest.mark.parametrize("change", [("1 ", "0 "), ("0000.wav\n", "0000.wav"), ("\n", "\r\n")])
def test_a_list_of_other_content_is_not_official(corpora, as_official, change):
    as_official.write_bytes(as_official.read_bytes().replace(*(text.encode() for text in change)))
    (reason,) = take_inventory("sv", Data(corpora)).deviations("sv")
    assert reason.startswith("voxceleb1_test_v2.txt is not s3prl's")


@pytest.mark.parametrize(
    ("task", "part"),
    [
        *((task, part) for task in ("pr", "asr") for part in ("train", "dev", "test")),
        *(("sid", part) for part in ("train", "dev", "test")),
        *(("sd", part) for part in ("train", "dev", "test")),
        *(("ic", part) for part in ("train", "valid", "test")),
        *(("sf", part) for part in ("train", "valid", "test")),
        ("sv", "train"),
        ("sv", "trials"),
        ("er", "Session1"),
        ("er", "Session1, train"),
    ],
)
def test_every_list_is_counted(corpora, task, part):
    """One training file used to pass."""
    inventory = take_inventory(task, Data(corpora))
    found = inventory.counts[part]
    others = {other: counts[0] for other, counts in official.COUNTS[task].items() if other != part}
    inventory.counts.update(others)
    (reason, *_) = inventory.deviations(task)
    plural = "s" if found != 1 else ""
    assert reason == (
        f"not the official data ({part}: {found} item{plural}, officially "
        f"{' or '.join(map(str, official.COUNTS[task][part]))})"
    )


def test_folds_of_other_content_are_not_official(corpora):
    inventory = take_inventory("er", Data(corpora))
    counts, lists = inventory.deviations("er")
    assert "Session3: " in counts and counts.endswith("; and 7 more)")
    assert lists.endswith(", and 7 more are not s3prl's: other content, order or line ends")
    inventory.changed = ["Session2/train_meta_data.json"]
    assert "Session2/train_meta_data.json is not s3prl's: other content, order or line ends" in (
        inventory.deviations("er")
    )


def test_a_substituted_list_is_not_official(corpora, as_official):
    as_official.rename(corpora / "VoxCeleb1/veri_test2.txt")
    assert take_inventory("sv", Data(corpora)).deviations("sv") == [
        "trial list veri_test2.txt instead of voxceleb1_test_v2.txt"
    ]


def test_a_clones_lists_come_first(corpora, tmp_path):
    clone = tmp_path / "clone"
    for name in layout.OFFICIAL_LEXICONS:
        write_text(clone / "s3prl/downstream/ctc/lexicon" / name, "GO G OW1\nON AA1 N\n")
    data = Data(corpora, clone=clone)
    assert [path.parent.name for path in data.lexicons()] == ["lexicon", "lexicon"]
    (other,) = take_inventory("pr", data).changed  # of the two, the hash of the smaller is known
    assert other == "librispeech-lexicon-allothers-g2p.txt"
    assert data.trial_list() == corpora / "VoxCeleb1/voxceleb1_test_v2.txt"
    with pytest.raises(DataError, match="not a clone"):
        Data(corpora, clone=corpora)


def test_a_corpus_may_lie_elsewhere(corpora, tmp_path):
    moved = (corpora / "VoxCeleb1").rename(tmp_path / "vox")
    assert take_inventory("sid", Data(corpora, {"VoxCeleb1": moved})).problems == []
    with pytest.raises(DataError, match="unknown corpus 'VoxCeleb2'"):
        Data(corpora, {"VoxCeleb2": moved})


def test_a_relative_root_is_the_same_corpus_from_any_working_directory(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(corpora)
    folder = Data(Path()).corpus("VoxCeleb1")
    monkeypatch.chdir("/")
    assert folder == corpora / "VoxCeleb1"
