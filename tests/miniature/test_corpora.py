"""What each corpus promises: counts, disjoint voices, lists that fit the files, sound where there should be sound."""

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pruned_upstream.miniature import CORPORA
from pruned_upstream.miniature.clip import Clip, render
from pruned_upstream.miniature.corpora import snips
from pruned_upstream.miniature.corpora.fluent_speech_commands import INTENTS
from pruned_upstream.miniature.corpora.librispeech import LEXICON
from pruned_upstream.miniature.corpora.voxceleb1 import SPLIT_LIST, TRIAL_LIST
from pruned_upstream.miniature.voice import Espeak
from pruned_upstream.s3prl_plugin.parts.vocabularies import PHONEMES
from pruned_upstream.superb.layout import Data, take_inventory

SHORT_WORD = "_nohash_"  # as in "up", an eighth of a second or so
BY_FOLDER = {corpus.folder: corpus for corpus in CORPORA}


def demo_clips(folder: str) -> list[Clip]:
    corpus = BY_FOLDER[folder]
    return corpus.plan(corpus.sizes["demo"], Random(0)).clips


def voices(folder: str, part_of=lambda path: path.split("/")[0]) -> dict[str, set[str]]:
    """Variants that speak in each part of a corpus at the demo scale."""
    found: dict[str, set[str]] = defaultdict(set)
    for clip in demo_clips(folder):
        found[part_of(clip.path)] |= {cue.line.variant for cue in clip.cues}
    return found


def assert_disjoint(*groups: set[str]) -> None:
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("folder", BY_FOLDER)
def test_paths_are_unique_and_plans_repeat(folder: str) -> None:
    clips = demo_clips(folder)
    assert len({clip.path for clip in clips}) == len(clips)
    assert clips == demo_clips(folder)


def test_the_teachers_speech_is_half_an_hour_and_varied() -> None:
    lines = [clip.cues[0].line for clip in demo_clips("LibriSpeech") if clip.path.startswith("train-clean-360")]
    assert len({line.variant for line in lines}) == 44
    assert len({line.text for line in lines}) == len(lines)
    assert len({word for line in lines for word in re.findall(r"[a-z]+", line.text.lower())}) > 220


def test_voices_of_train_dev_and_test_are_disjoint() -> None:
    libri = voices("LibriSpeech")
    assert libri["train-clean-360"] == libri["train-clean-100"]
    assert_disjoint(libri["train-clean-100"], libri["dev-clean"], libri["test-clean"])
    for folder, parts in (("diarization", ("train", "dev", "test")), ("SNIPS", ("train", "valid", "test"))):
        found = voices(folder)
        assert_disjoint(*(found[part] for part in parts))
    commands = voices("fluent_speech_commands_dataset", lambda path: Path(path).stem.split("-")[0])
    assert_disjoint(*(commands[part] for part in ("train", "valid", "test")))
    queries = voices("quesst14Database")
    assert_disjoint(queries["dev_queries"], queries["eval_queries"], queries["Audio"] - {"m3"})  # m3: in Albanian only
    celebrities = voices("VoxCeleb1")
    assert_disjoint(celebrities["dev"], celebrities["test"])
    sessions = voices("IEMOCAP")
    assert_disjoint(*(sessions[f"Session{i}"] for i in range(1, 6)))


def test_speech_commands_names_put_each_voice_into_its_split() -> None:
    by_name: dict[str, set[str]] = defaultdict(set)
    for folder in ("speech_commands_v0.01", "speech_commands_test_set_v0.01"):
        for name, variants in voices(folder, lambda path: path.split("/")[1].split("_")[0]).items():
            by_name[name] |= variants
    spoken = {name: variants for name, variants in by_name.items() if variants}
    assert all(len(variants) == 1 for variants in spoken.values()) and len(spoken) == 44 + 10 + 14
    assert_disjoint(*spoken.values())
    # tensorflow/tensorflow, tensorflow/examples/speech_commands/input_data.py, which_set
    shares = Counter()
    for name in spoken:
        percentage = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 2**27 * (100.0 / (2**27 - 1))
        shares["dev" if percentage < 10 else "test" if percentage < 20 else "train"] += 1
    assert shares == {"train": 44, "dev": 10, "test": 14}


@pytest.mark.parametrize("task", ["pr", "asr", "ks", "qbe", "sid", "sv", "sd", "ic", "sf", "er"])
def test_the_data_check_finds_nothing_missing(tiny_root: Path, task: str) -> None:
    inventory = take_inventory(task, Data(tiny_root))
    assert inventory.problems == []
    assert all(inventory.counts.values())


def test_sound(tiny_root: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    recordings = [path for path in tiny_root.rglob("*") if path.suffix in (".wav", ".flac")]
    assert len(recordings) > 200
    for path in recordings:
        samples, rate = soundfile.read(path, dtype="float64")
        assert samples.ndim == 1 and np.abs(samples).max() < 0.99, path
        assert rate == (8000 if "quesst14Database" in path.parts else 16000), path
        if path.parent.name in ("_silence_", "_background_noise_"):
            continue
        frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)  # (frames, samples)
        level = 10 * np.log10((frames**2).mean(1) + 1e-12)
        spoken = (level > level.max() - 30).mean()
        assert -40 < 10 * np.log10((samples**2).mean()) < -14, path
        assert spoken > (0.05 if SHORT_WORD in path.name else 0.3), path
        assert level.min() < level.max() - 12, path  # pauses are heard


def test_librispeech(tiny_root: Path) -> None:
    root = tiny_root / "LibriSpeech"
    lexicon = dict(line.split(" ", 1) for line in (root / LEXICON).read_text().splitlines())
    assert {phone for phones in lexicon.values() for phone in phones.split()} <= set(PHONEMES)
    for split, count in (("train-clean-360", 4), ("train-clean-100", 8), ("dev-clean", 4), ("test-clean", 4)):
        lines = [line for path in (root / split).rglob("*.trans.txt") for line in path.read_text().splitlines()]
        texts = dict(line.split(" ", 1) for line in lines)
        assert texts.keys() == {path.stem for path in (root / split).rglob("*.flac")}
        assert len(texts) == count
        assert all(word in lexicon for text in texts.values() for word in text.split())


def test_alignments_fit_the_sound(tiny_root: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    root = tiny_root / "LibriSpeech"
    for split in ("train-clean-360", "train-clean-100", "dev-clean", "test-clean"):
        with open(root / "alignments" / f"{split}.tsv", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        seconds = {path.stem: soundfile.info(path).duration for path in (root / split).rglob("*.flac")}
        assert {row["utterance"] for row in rows} == seconds.keys()
        assert {row["phone"] for row in rows} <= set(PHONEMES)
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            assert 0 < float(row["start"]) <= float(row["end"]) <= seconds[row["utterance"]]
            if following and following["utterance"] == row["utterance"]:
                assert float(row["end"]) == pytest.approx(float(following["start"]), abs=2e-4)


def test_speech_commands_are_one_second(tiny_root: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    train, test = tiny_root / "speech_commands_v0.01", tiny_root / "speech_commands_test_set_v0.01"
    for path in [*train.glob("*/*_nohash_*.wav"), *test.glob("*/*.wav")]:
        assert soundfile.info(path).frames == 16000
    assert len([path for path in test.iterdir() if path.is_dir()]) == 12
    demo = Counter(clip.path.split("/")[0] for clip in demo_clips("speech_commands_test_set_v0.01"))
    assert set(demo.values()) == {70, 84} and demo["_unknown_"] == 84


def test_no_keyword_is_cut() -> None:
    pytest.importorskip("espeakng_loader")
    espeak = Espeak()
    clips = [clip for clip in demo_clips("speech_commands_v0.01") if clip.cues]
    slow_voices = [clip for clip in clips if clip.cues[0].line.variant in ("linda", "Marco", "robert", "Jacky")]
    slowest = sorted(clips, key=lambda clip: clip.cues[0].line.rate)[:50]
    for clip in slow_voices + slowest:
        _, take = render(clip, espeak)
        assert take.spoken[0].end < 1.0, clip.path


def test_quesst14_queries_occur(tiny_root: Path) -> None:
    scoring = tiny_root / "quesst14Database" / "scoring"
    assert [line.split()[1] for line in (scoring / "language_key_utterances.lst").read_text().splitlines()] == [
        *["nnenglish"] * 4,
        *["albanian"] * 3,
    ]
    clips = demo_clips("quesst14Database")
    texts = [clip.cues[0].line.text for clip in clips if clip.path.startswith("Audio")]
    for clip in clips:
        if "queries" in clip.path:
            assert 4 <= sum(clip.cues[0].line.text in text for text in texts) <= 8


def test_voxceleb1(tiny_root: Path) -> None:
    root = tiny_root / "VoxCeleb1"
    entries = [line.split() for line in (root / SPLIT_LIST).read_text().splitlines()]
    assert {part for part, _ in entries} == {"1", "2", "3"}
    videos = defaultdict(set)
    for part, name in entries:
        videos[name.rpartition("/")[0]].add(part)
    assert all(len(parts) == 1 for parts in videos.values())
    trials = [line.split() for line in (root / TRIAL_LIST).read_text().splitlines()]
    assert Counter(label for label, *_ in trials) == {"1": 4, "0": 4}
    for label, one, other in trials:
        assert (one.split("/")[0] == other.split("/")[0]) == (label == "1")
        assert one.rpartition("/")[0] != other.rpartition("/")[0]


def test_diarization_has_overlap_and_silence(tiny_root: Path) -> None:
    shares = Counter()
    for split in ("train", "dev", "test"):
        folder = tiny_root / "diarization" / split
        seconds = dict(line.split() for line in (folder / "reco2dur").read_text().splitlines())
        for recording, length in seconds.items():
            lines = [
                line.split() for line in (folder / "rttm").read_text().splitlines() if line.split()[1] == recording
            ]
            speakers = sorted({line[7] for line in lines})
            assert len(speakers) == 2
            active = np.zeros((2, int(float(length) * 100)), dtype=int)
            for line in lines:
                start, duration = float(line[3]), float(line[4])
                part = active[speakers.index(line[7]), round(start * 100) : round((start + duration) * 100)]
                assert not part.any()  # nobody speaks over himself
                part[:] = 1
            shares.update(active.sum(0).tolist())
        segments = {line.split()[0] for line in (folder / "segments").read_text().splitlines()}
        assert segments == {line.split()[0] for line in (folder / "utt2spk").read_text().splitlines()}
        named = [line.split() for line in (folder / "spk2utt").read_text().splitlines()]
        assert segments == {utterance for _, *utterances in named for utterance in utterances}
    assert shares[0] > 100 and shares[1] > 500 and shares[2] > 20


def test_intents_are_said_in_every_split() -> None:
    by_text = {text: intent for intent, texts in INTENTS.items() for text in texts}
    said = defaultdict(set)
    for clip in demo_clips("fluent_speech_commands_dataset"):
        said[Path(clip.path).stem.split("-")[0]].add(by_text[clip.cues[0].line.text])
    assert said == {split: set(INTENTS) for split in ("train", "valid", "test")}


def test_snips_lines(tiny_root: Path) -> None:
    root = tiny_root / "SNIPS"
    slots = (root / "slots.txt").read_text().split("\n")
    assert slots[0] == "O" and "" not in slots
    for line in (root / "all.iob.snips.txt").read_text().splitlines():
        spoken, tagged = line.split("\t")
        utterance, bos, *words, eos = spoken.split()
        start, *tags, _ = tagged.split()
        assert (bos, eos, start) == ("BOS", "EOS", "O") and len(words) == len(tags)
        assert set(tags) <= set(slots)
        assert re.fullmatch("[A-Z' ]+", " ".join(words))
        name, _, split, _ = utterance.split("-")
        assert name in snips.SPEAKERS[split] and (root / split / f"{utterance}.wav").is_file()


def test_iemocap_folds(tiny_root: Path) -> None:
    root = tiny_root / "IEMOCAP"
    everything = set()
    for session in range(1, 6):
        listing = root / "meta_data" / f"Session{session}"
        train, test = (
            json.loads((listing / f"{name}_meta_data.json").read_text())["meta_data"] for name in ("train", "test")
        )
        assert len(train) == 32 and len(test) == 8
        assert Counter(entry["label"] for entry in test) == {"neu": 2, "hap": 2, "ang": 2, "sad": 2}
        assert {entry["speaker"] for entry in train}.isdisjoint(entry["speaker"] for entry in test)
        assert all((root / entry["path"]).is_file() for entry in train + test)
        everything |= {entry["path"] for entry in test}
    assert len(everything) == 40
