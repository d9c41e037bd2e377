"""s3prl's own data sets open every corpus."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pruned_upstream.miniature.corpora import snips
from pruned_upstream.s3prl_plugin.parts import vocabularies
from pruned_upstream.superb.layout import LIBRISPEECH_SPLITS

SLOTS = ("artist", "city", "cuisine", "partysize", "service", "timerange")


@pytest.fixture(scope="module", autouse=True)
def s3prl():
    pytest.importorskip("s3prl")
    from pruned_upstream.s3prl_plugin import compat

    compat.apply()


def waves(dataset, *, at_least: int = 1000) -> list[np.ndarray]:
    found = [dataset[i][0] for i in range(len(dataset))]
    assert found and all(wave.ndim == 1 and len(wave) >= at_least for wave in found)
    return found


def test_speech_commands(tiny_root: Path) -> None:
    from s3prl.downstream.speech_commands.dataset import SpeechCommandsDataset, SpeechCommandsTestingDataset
    from s3prl.downstream.speech_commands.expert import split_dataset

    roots = {
        "speech_commands_root": str(tiny_root / "speech_commands_v0.01"),
        "speech_commands_test_root": str(tiny_root / "speech_commands_test_set_v0.01"),
    }
    train, dev = split_dataset(roots["speech_commands_root"])
    assert len(train) == 3 * 12 and len(dev) == 2 * 11
    for files, noises in ((train, 2), (dev, 2)):
        dataset = SpeechCommandsDataset(files, **roots)
        assert len(dataset) == len(files) + noises
        waves(dataset, at_least=16000)
    testing = SpeechCommandsTestingDataset(**roots)
    assert {testing[i][1] for i in range(len(testing))} == set(range(12))


def test_quesst14(tiny_root: Path) -> None:
    from s3prl.downstream.quesst14_dtw.dataset import QUESST14Dataset

    for split in ("dev", "eval"):
        dataset = QUESST14Dataset(split, dataset_root=str(tiny_root / "quesst14Database"))
        assert (dataset.n_queries, dataset.n_docs) == (2, 4)
        waves(dataset, at_least=8000)


def test_voxceleb1_identification(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3prl.downstream.voxceleb1 import dataset as module

    monkeypatch.setattr(module, "CACHE_PATH", str(tmp_path))
    root = tiny_root / "VoxCeleb1"
    for mode, count in (("train", 12), ("dev", 4), ("test", 4)):
        dataset = module.SpeakerClassifiDataset(mode, root, str(root / "veri_test_class.txt"))
        assert len(dataset) == count
        assert {dataset[i][1] for i in range(count)} == {0, 1, 269, 270}


def test_voxceleb1_verification(tiny_root: Path) -> None:
    from s3prl.downstream.sv_voxceleb1.dataset import EFFECTS, SpeakerVerifi_test, apply_effects_file

    root = tiny_root / "VoxCeleb1"
    trials = SpeakerVerifi_test({"min_sec": 32000}, str(root / "test" / "wav"), str(root / "voxceleb1_test_v2.txt"))
    waves(trials, at_least=32000)
    for path in (root / "dev" / "wav").rglob("*.wav"):
        wave, _ = apply_effects_file(str(path), EFFECTS)
        assert wave.shape[1] > 32000, path


def test_diarization(tiny_root: Path) -> None:
    from s3prl.downstream.diarization.dataset import DiarizationDataset

    for mode in ("train", "dev"):
        dataset = DiarizationDataset(mode, str(tiny_root / "diarization" / mode), frame_shift=320, num_speakers=2)
        for i in range(len(dataset)):
            wave, labels = dataset[i]
            assert labels.shape[1] == 2 and labels.sum(0).all()
            assert abs(len(wave) - 320 * len(labels)) < 320
    dataset = DiarizationDataset("test", str(tiny_root / "diarization" / "test"), frame_shift=320, num_speakers=2)
    assert len(dataset) == 1 and len(dataset[0][0]) == 1


def test_fluent_commands(tiny_root: Path) -> None:
    from s3prl.downstream.fluent_commands.dataset import FluentCommandsDataset
    from s3prl.downstream.fluent_commands.expert import DownstreamExpert

    expert = SimpleNamespace(datarc={"file_path": str(tiny_root / "fluent_speech_commands_dataset")})
    DownstreamExpert.get_dataset(expert)
    assert expert.values_per_slot == [5, 7, 4]
    for table in (expert.train_df, expert.valid_df, expert.test_df):
        dataset = FluentCommandsDataset(table, expert.base_path, expert.Sy_intent)
        waves(dataset)
        assert all(len(dataset[i][1]) == 3 for i in range(len(dataset)))


def test_snips(tiny_root: Path, tmp_path: Path) -> None:
    from s3prl.downstream.ctc.text import load_text_encoder

    from pruned_upstream.s3prl_plugin.parts.ctc.corpus.snips import SnipsDataset

    letters = vocabularies.write_characters(tmp_path / "character.txt")
    root = tiny_root / "SNIPS"
    tokenizer = load_text_encoder("character-slot", letters, root / "slots.txt")
    assert [slot for slot in tokenizer.slots if slot.startswith("B-")] == [f"B-{slot}" for slot in SLOTS]
    speakers = {f"{split}_speakers": list(names) for split, names in snips.SPEAKERS.items()}
    for split, count in (("train", 16), ("valid", 4), ("test", 4)):
        dataset = SnipsDataset([split], tokenizer, 1, path=str(root), **speakers)
        assert len(dataset) == count
        for i in range(count):
            decoded = tokenizer.decode(dataset[i][1])
            assert "B-" in decoded and "E-" in decoded and "<unk>" not in decoded


def test_emotion(tiny_root: Path) -> None:
    from s3prl.downstream.emotion.dataset import IEMOCAPDataset

    root = tiny_root / "IEMOCAP"
    for name, count in (("train", 32), ("test", 8)):
        dataset = IEMOCAPDataset(str(root), str(root / "meta_data" / "Session2" / f"{name}_meta_data.json"))
        assert dataset.class_num == 4 and len(waves(dataset)) == count


def test_emotion_preprocessing_writes_the_same_folds(tiny_root: Path, tmp_path: Path) -> None:
    from s3prl.downstream.emotion.IEMOCAP_preprocess import preprocess

    root = tiny_root / "IEMOCAP"
    preprocess(str(root), ["Session3"], str(tmp_path / "test.json"))
    ours = json.loads((root / "meta_data" / "Session3" / "test_meta_data.json").read_text())
    theirs = json.loads((tmp_path / "test.json").read_text())
    assert {entry["path"]: entry for entry in theirs["meta_data"]} == {
        entry["path"]: entry for entry in ours["meta_data"]
    }
    assert theirs["labels"] == ours["labels"]


def test_asr(tiny_root: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    from s3prl.downstream.asr.dataset import SequenceDataset
    from s3prl.downstream.asr.dictionary import Dictionary

    root = tiny_root / "LibriSpeech"
    dictionary = Dictionary.load(str(vocabularies.write_asr_dictionary(tmp_path / "char.dict")))
    for split in LIBRISPEECH_SPLITS.values():
        lines = [",file_path,length,label"]
        for i, path in enumerate(sorted((root / split).rglob("*.flac"))):
            lines.append(f"{i},{path.relative_to(root)},{soundfile.info(path).frames},")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
        dataset = SequenceDataset(split, 2, dictionary, str(root), str(tmp_path), **{split: [split]})
        texts = [dictionary.string(labels) for i in range(len(dataset)) for labels in dataset[i][1]]
        assert len(texts) == len(lines) - 1 and all("<unk>" not in text for text in texts)
