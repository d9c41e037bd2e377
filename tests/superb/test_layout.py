"""The data check: complete corpora pass, and every kind of damage is named with its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.superb import layout, official
from pruned_upstream.superb.contradictions import REASONS
from pruned_upstream.superb.layout import Data, take_inventory
from pruned_upstream.superb.tasks import TASKS

soundfile = pytest.importorskip("soundfile")


def write_audio(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(160), 16000)
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
        write_audio(root / "speech_commands_v0.01" / name / "x_nohash_0.wav")
    write_audio(root / "speech_commands_v0.01/_background_noise_/hum.wav")


def write_quesst(root: Path) -> None:
    corpus = root / "quesst14Database"
    for key, name in {"utterances": "Audio/u.wav", "dev": "dev_queries/d.wav", "eval": "eval_queries/e.wav"}.items():
        write_audio(corpus / name)
        write_text(
            corpus / f"scoring/language_key_{key}.lst",
            f"quesst14Database/{name} nnenglish\nquesst14Database/a.wav czech\n",
        )
    for split in ("dev", "eval"):
        for suffix in ("rttm", "ecf.xml", "tlist.xml"):
            write_text(corpus / f"scoring/groundtruth_quesst14_{split}/x.{suffix}", "")


def write_voxceleb(root: Path) -> None:
    corpus = root / "VoxCeleb1"
    write_audio(corpus / "dev/wav/id10001/v/00001.wav")
    write_audio(corpus / "test/wav/id10270/v/00001.wav")
    write_text(corpus / "veri_test_class.txt", "1 id10001/v/00001.wav\n2 id10001/v/00001.wav\n3 id10270/v/00001.wav\n")
    write_text(corpus / "voxceleb1_test_v2.txt", "1 id10270/v/00001.wav id10270/v/00001.wav\n")


def write_diarization(root: Path) -> None:
    for split in ("train", "dev", "test"):
        folder = root / "diarization" / split
        write_audio(folder / "wav/rec.wav")
        for name, fields in layout.KALDI_FILES.items():
            write_text(folder / name, " ".join(["rec", *["1"] * (fields - 1)]) + "\n")


def write_commands(root: Path) -> None:
    corpus = root / "fluent_speech_commands_dataset"
    write_audio(corpus / "wavs/speakers/s/a.wav")
    for part in ("train", "valid", "test"):
        write_text(
            corpus / f"data/{part}_data.csv", "path,action,object,location\nwavs/speakers/s/a.wav,bring,tea,none\n"
        )


def write_snips(root: Path) -> None:
    corpus = root / "SNIPS"
    write_text(corpus / "all.iob.snips.txt", "Ivy-snips-train-0 BOS GO EOS\tO O intent\n")
    write_text(corpus / "slots.txt", "O\ncity\n")
    for part in ("train", "valid", "test"):
        write_audio(corpus / part / f"Ivy-snips-{part}-0.wav")


def write_iemocap(root: Path) -> None:
    corpus = root / "IEMOCAP"
    for session in official.FOLDS:
        name = f"{session}/sentences/wav/d/{session}_a.wav"
        write_audio(corpus / name)
        write_text(
            corpus / session / "dialog/EmoEvaluation/d.txt",
            f"% header\n[1.0 - 2.0]\t{session}_a\texc\t[2.5, 2.5, 2.5]\n[2.0 - 3.0]\t{session}_b\tang\t[1, 1, 1]\n",
        )
        for part in ("train", "test"):
            entry = {"path": name, "label": "neu", "speaker": "a"}
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
    ("qbe", "quesst14Database/scoring/groundtruth_quesst14_eval/x.rttm", "holds no *.rttm"),
    ("sid", "VoxCeleb1/veri_test_class.txt", "clone of s3prl"),
    ("sid", "VoxCeleb1/dev/wav/id10001/v/00001.wav", "veri_test_class.txt, train are missing"),
    ("sv", "VoxCeleb1/test/wav/id10270/v/00001.wav", "voxceleb1_test_v2.txt are missing"),
    ("sd", "diarization/test/rttm", "part of a kaldi folder"),
    ("ic", "fluent_speech_commands_dataset/data/valid_data.csv", "the list of commands"),
    ("sf", "SNIPS/slots.txt", "the names of the slots"),
    ("sf", "SNIPS/valid/Ivy-snips-valid-0.wav", "holds no .wav file"),
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
        ("sid", "VoxCeleb1/veri_test_class.txt", b"9 id1/v/a.wav\n", "lists no recording for train"),
        ("asr", "LibriSpeech/dev-clean/84/121/84-121.trans.txt", b"", "dev-clean name no recording"),
        ("pr", "LibriSpeech/dev-clean/84/121/84-121.trans.txt", b"a-b caf\xe9\n", "84-121.trans.txt is not UTF-8"),
        ("sd", "diarization/train/segments", b"", "segments is empty"),
        ("sd", "diarization/dev/rttm", b"\xff\xfe\0\n", "rttm is not UTF-8"),
        ("sd", "diarization/dev/utt2spk", b"one\n", "the line 'one' is damaged"),
        ("ic", COMMANDS, b"path,action,object,location\nx\n", "without a path"),
        ("ic", COMMANDS, b"path,action,object,location\n\0,a,b,c\n", "without a path"),
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
    table.write_text("path,action,object,location\nwavs/speakers/s/a.wav,bring,coffee,none\n")
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
    monkeypatch.setitem(official.COUNTS, "sv", {"train": (1,), "trials": (1,)})
    monkeypatch.setitem(official.SHA256, trials.name, hashlib.sha256(trials.read_bytes()).hexdigest())
    return trials


def test_official_counts_and_lists_make_official_data_and_lists_carry_their_hash(corpora, as_official):
    inventory = take_inventory("sv", Data(corpora))
    assert inventory.deviations("sv") == []
    assert inventory.lists[as_official.name] == official.SHA256[as_official.name]


@pytest.mark.parametrize("change", [("1 ", "0 "), ("\n", ""), ("\n", "\r\n")])
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
