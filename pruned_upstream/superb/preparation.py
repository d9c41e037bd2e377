"""What s3prl wants to be given besides the audio: lists, vocabularies, and where everything lies.

All of it goes to the user's cache, in folders keyed by the files that were read for it (`s3prl_plugin.caches`). So two
corpora never share a list, a changed corpus gets new ones, and the lengths of a large corpus are measured once; a file
that nobody reads changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..files import write_text
from ..s3prl_plugin import caches
from ..s3prl_plugin.parts import iemocap, libri2mix, librispeech, vocabularies
from .layout import LIBRISPEECH_SPLITS, Data
from .official import FOLDS
from .tasks import TASKS

Overrides = dict[str, Any]


def prepare(task: str, data: Data) -> Overrides:
    """Write what the task lacks, unless it is there; returns what replaces the yaml's values, nested as in the yaml.

    Raises:
        DataError: a file of the corpus cannot be used (`layout.take_inventory` would have said so).
    """
    return {"downstream_expert": _PREPARATIONS[task](data)}


def _once(path: Path, write: Callable[[Path], Any]) -> str:
    """The path of a prepared file, written now if it is not there yet."""
    if not path.exists():
        write(path)
    return str(path)


def _folder(task: str, *read: Path) -> Path:
    return caches.folder_for(*read) / task


def _pr(data: Data) -> Overrides:
    root = data.corpus("LibriSpeech")
    folder = _folder("pr", *_librispeech_files(root, "*.trans.txt"))
    for part, split in LIBRISPEECH_SPLITS.items():
        _once(folder / f"{part}.csv", partial(_write_transcripts, root=root, split=split))
    return {
        "corpus": {"csv_dir": str(folder), "lexicon": [str(path) for path in data.lexicons()]}
        | {part: f"{part}.csv" for part in LIBRISPEECH_SPLITS},
        "text": {"vocab_file": _once(folder / "phoneme.txt", vocabularies.write_phonemes)},
    }


def _write_transcripts(path: Path, root: Path, split: str) -> None:
    librispeech.write_transcripts_csv(path, librispeech.find_utterances(root, [split]))


def _asr(data: Data) -> Overrides:
    root = data.corpus("LibriSpeech")
    folder = _folder("asr", *_librispeech_files(root, "*.flac"))
    for split in LIBRISPEECH_SPLITS.values():
        _once(folder / f"{split}.csv", partial(librispeech.write_lengths_csv, root=root, split=split))
    return {
        "datarc": {
            "libri_root": str(root),
            "bucket_file": str(folder),
            "dict_path": _once(folder / "char.dict", vocabularies.write_asr_dictionary),
        }
    }


def _librispeech_files(root: Path, pattern: str) -> list[Path]:
    return [path for split in LIBRISPEECH_SPLITS.values() for path in sorted((root / split).glob(f"*/*/{pattern}"))]


def _ks(data: Data) -> Overrides:
    training, testing = (str(data.corpus(corpus)) for corpus in TASKS["ks"].corpora)
    return {"datarc": {"speech_commands_root": training, "speech_commands_test_root": testing}}


def _qbe(data: Data) -> Overrides:
    return {"datarc": {"dataset_root": str(data.corpus("quesst14Database"))}}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _sid(data: Data) -> Overrides:
    return {"datarc": {"file_path": str(data.corpus("VoxCeleb1")), "meta_data": _text(data.split_list())}}


def _sv(data: Data) -> Overrides:
    # there is no development set: s3prl opens the list all the same, and never evaluates it
    lists = dict.fromkeys(("train_meta_data", "dev_meta_data", "test_meta_data"), _text(data.trial_list()))
    return {"datarc": {"file_path": str(data.corpus("VoxCeleb1"))} | lists}


def _sd(data: Data) -> Overrides:
    root = data.corpus("diarization")
    if not root.is_dir():
        mixed, turns = data.corpus("Libri2Mix"), data.corpus("LibriMix") / "metadata/LibriSpeech"
        mixtures = {split: libri2mix.mixtures(mixed, split) for split in libri2mix.TURN_FILES}
        root = _folder("sd", *mixtures.values(), *(turns / name for name in libri2mix.TURN_FILES.values()))
        for split, name in libri2mix.TURN_FILES.items():
            if not (root / split / "rttm").exists():
                libri2mix.write_kaldi_folder(
                    root / split, mixtures=mixtures[split], turns=turns / name, libri2mix=mixed
                )
    return {"loaderrc": {f"{split}_dir": str(root / split) for split in libri2mix.TURN_FILES}}


def _ic(data: Data) -> Overrides:
    return {"datarc": {"file_path": str(data.corpus("fluent_speech_commands_dataset"))}}


def _sf(data: Data) -> Overrides:
    root = data.corpus("SNIPS")
    return {
        "corpus": {"path": str(root)},
        "text": {
            "vocab_file": _once(_folder("sf") / "character.txt", vocabularies.write_characters),
            "slots_file": str(root / "slots.txt"),
        },
    }


def _er(data: Data) -> Overrides:
    root, folds = data.corpus("IEMOCAP"), data.emotion_folds()
    if folds is None:
        folds = _write_emotion_folds(root)
    # the fold is left to `-v`, so that one configuration serves all five
    return {"datarc": {"root": str(root), "meta_data": str(folds), "test_fold": None}}


def _write_emotion_folds(root: Path) -> Path:
    """ER's json files from IEMOCAP's own labels; s3prl has the utterances in another order."""
    numbers = {emotion: number for number, emotion in enumerate(iemocap.EMOTIONS)}
    by_session = {session: iemocap.read_labels(root, session) for session in FOLDS}
    texts = {}
    for session in FOLDS:
        others = [entry for other in FOLDS if other != session for entry in by_session[other]]
        for part, entries in {"test": by_session[session], "train": others}.items():
            tree = {"labels": numbers, "meta_data": entries}
            texts[f"{session}/{part}_meta_data.json"] = json.dumps(tree)
    folds = caches.folder(hashlib.sha256("".join(texts.values()).encode()).hexdigest()[:16]) / "er"
    for name, text in texts.items():
        _once(folds / name, partial(write_text, text=text))
    return folds


_PREPARATIONS: Mapping[str, Callable[[Data], Overrides]] = {
    "pr": _pr, "asr": _asr, "ks": _ks, "qbe": _qbe, "sid": _sid, "sv": _sv, "sd": _sd, "ic": _ic, "sf": _sf, "er": _er,
}  # fmt: skip
