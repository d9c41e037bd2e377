"""A configuration of s3prl's as one writes it by hand, made ready to run: what pip leaves out is supplied.

The shipped configurations name vocabularies, a dictionary, a lexicon, lists of lengths and folds as a clone of s3prl
has them. Where such a file is not there, what `superb` uses takes its place (`preparation.py`); what is there is left
alone. Corpora must be where the configuration says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..s3prl_plugin.parts.librispeech import find_utterances
from .configuration import assign
from .kaldi import REQUIRED
from .layout import Data, Inventory
from .preparation import prepare

Config = dict[str, Any]


@dataclass(frozen=True)
class _Places:
    """Keys below `downstream_expert`.

    Attributes:
        corpora: corpus -> the key of its folder; `diarization`, whose folders are supplied, has none.
        supplied: files and folders that can be made, or found beside the corpus.
    """

    corpora: Mapping[str, str]
    supplied: tuple[str, ...] = ()


_PLACES: Mapping[str, _Places] = {
    "pr": _Places({"LibriSpeech": "corpus.path"}, ("corpus.lexicon", "text.vocab_file")),
    "asr": _Places({"LibriSpeech": "datarc.libri_root"}, ("datarc.bucket_file", "datarc.dict_path")),
    "ks": _Places(
        {
            "speech_commands_v0.01": "datarc.speech_commands_root",
            "speech_commands_test_set_v0.01": "datarc.speech_commands_test_root",
        }
    ),
    "qbe": _Places({"quesst14Database": "datarc.dataset_root"}),
    "sid": _Places({"VoxCeleb1": "datarc.file_path"}, ("datarc.meta_data",)),
    "sv": _Places(
        {"VoxCeleb1": "datarc.file_path"},
        ("datarc.train_meta_data", "datarc.dev_meta_data", "datarc.test_meta_data"),
    ),
    "sd": _Places({}, ("loaderrc.train_dir", "loaderrc.dev_dir", "loaderrc.test_dir")),
    "ic": _Places({"fluent_speech_commands_dataset": "datarc.file_path"}),
    "sf": _Places({"SNIPS": "corpus.path"}, ("text.vocab_file", "text.slots_file")),
    "er": _Places({"IEMOCAP": "datarc.root"}, ("datarc.meta_data",)),
}
_LANDMARKS: Mapping[str, str] = {  # what any copy of a corpus holds, whichever of its parts are used
    "LibriSpeech": "*/*/*/*.flac",
    "speech_commands_v0.01": "*/*.wav",
    "speech_commands_test_set_v0.01": "*/*.wav",
    "quesst14Database": "scoring/language_key_*.lst",
    "VoxCeleb1": "*/wav/*/*/*.wav",
    "fluent_speech_commands_dataset": "data/train_data.csv",
    "SNIPS": "all.iob.snips.txt",
    "IEMOCAP": "Session1/sentences/wav",
}
_DOWNSTREAMS = {
    "asr": "asr", "speech_commands": "ks", "quesst14_dtw": "qbe", "voxceleb1": "sid", "sv_voxceleb1": "sv",
    "diarization": "sd", "fluent_commands": "ic", "emotion": "er",
}  # fmt: skip
_SPLITS = ("train", "dev", "test")
_CTC_CORPORA = {"libriphone": "pr", "snips": "sf"}


def supply(downstream: str, config: Config, splits: Sequence[str] = ()) -> None:
    """Name in the configuration, in place, what takes the place of files that are not there.

    Args:
        downstream: s3prl's name of the task; one that is none of the ten is left alone.
        splits: what will be read, by s3prl's names (train, dev, test-clean ...).

    Raises:
        DataError: a corpus is not where the configuration says, or lacks what cannot be made.
        ConfigError: the configuration does not say where.
    """
    expert: Any = config.get("downstream_expert")
    task = _task(downstream, expert)
    if task is None:
        return
    places = _PLACES[task]
    corpora = {corpus: _folder(expert, corpus, key) for corpus, key in places.corpora.items()}
    if task == "ks" and not any((corpora["speech_commands_v0.01"] / "_background_noise_").glob("*.wav")):
        raise DataError(
            f"{corpora['speech_commands_v0.01']} holds no _background_noise_/*.wav, from which s3prl cuts silence; "
            "extract the whole archive"
        )
    if task == "asr":
        parts = [part for split in splits for part in expert["datarc"].get(split, ())]
        _check_recordings(corpora["LibriSpeech"], parts)
    if task == "sd":
        _check_kaldi_folders(expert, places.supplied)
    absent = [key for key in places.supplied if not _is_there(value_at(expert, key))]
    if not absent:
        return
    if task == "sd":
        root = Path(value_at(expert, "loaderrc.train_dir") or "data/diarization/train").parent.parent
        if not (root / "Libri2Mix").is_dir():
            raise DataError(
                f"{value_at(expert, absent[0])} does not exist, and {root} holds no Libri2Mix to make it from; say "
                f"where a folder with {', '.join(REQUIRED)} is with -o config.downstream_expert.{absent[0]}=FOLDER"
            )
        data = Data(root)
    else:
        data = Data(next(iter(corpora.values())).parent, corpora)
    found = prepare(task, data)["downstream_expert"]
    for key in absent:
        value = value_at(found, key)
        if not _is_there(value):
            name = value_at(expert, key)
            raise DataError(
                f"{name[0] if isinstance(name, list) else name} does not exist, nor is there another under "
                f"{', '.join(map(str, corpora.values()))}; copy it from a clone of s3prl, or set "
                f"config.downstream_expert.{key}"
            )
        assign(expert, key, value)


def splits(downstream: str, config: Config) -> Sequence[str] | None:
    """The splits of a task by s3prl's names; None of one that is none of the ten."""
    expert: Any = config.get("downstream_expert")
    task = _task(downstream, expert)
    if task != "asr":
        return None if task is None else _SPLITS
    return [name for name, parts in (expert.get("datarc") or {}).items() if isinstance(parts, list)]


def _check_recordings(root: Path, parts: Iterable[str]) -> None:
    """s3prl's ASR skips parts of LibriSpeech that are not there, and breaks off where a recording is not."""
    found = Inventory()
    for part in parts:
        found.audio([utterance.path for utterance in find_utterances(root, [part])], part)
    if found.problems:
        raise DataError(f"{found.problems[0]}; extract LibriSpeech's archives anew")


def _check_kaldi_folders(expert: Config, keys: Iterable[str]) -> None:
    for key in keys:
        folder = value_at(expert, key)
        if not _is_there(folder):
            continue
        absent = [name for name in REQUIRED if not (Path(folder) / name).is_file()]
        if absent:
            raise DataError(
                f"{folder} is no folder of diarization: it holds no {absent[0]}; say where it is with "
                f"-o config.downstream_expert.{key}=FOLDER"
            )


def _task(downstream: str, expert: Any) -> str | None:
    if not isinstance(expert, dict):
        return None
    if downstream == "ctc":
        corpus = expert.get("corpus")
        return _CTC_CORPORA.get(str(corpus.get("name"))) if isinstance(corpus, dict) else None
    return _DOWNSTREAMS.get(downstream)


def value_at(tree: Any, key: str) -> Any:
    """What stands under `a.b.c`; None where nothing does."""
    for section in key.split("."):
        tree = tree.get(section) if isinstance(tree, Mapping) else None
    return tree


def _folder(expert: Config, corpus: str, key: str) -> Path:
    if key == "corpus.path" and value_at(expert, "corpus.csv_dir") is not None:
        return Path(value_at(expert, "corpus.csv_dir"))  # PR's other form: lists, in which the recordings are named
    where = value_at(expert, key)
    if not isinstance(where, str):
        raise ConfigError(f"the configuration has no downstream_expert.{key}; it says where the corpus is")
    if not Path(where).is_dir():
        raise DataError(
            f"there is no folder {where}; say where the corpus is with -o config.downstream_expert.{key}=FOLDER"
        )
    if not any(Path(where).glob(_LANDMARKS[corpus])):
        raise DataError(
            f"{where} is not {corpus}: it holds no {_LANDMARKS[corpus]}; say where the corpus is with "
            f"-o config.downstream_expert.{key}=FOLDER"
        )
    return Path(where)


def _is_there(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_there, value))
    return isinstance(value, str) and Path(value).exists()
