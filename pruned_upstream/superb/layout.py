"""Where the corpora lie, which files each task needs of them, and whether they are the official ones.

A data root holds one folder per corpus, named as in `CORPORA`; a folder elsewhere can be named for any of them. What
neither the pip package nor this one can ship comes from a clone of s3prl where one is given, else from the corpus
folder: PR's lexicons, SID's split list, SV's trial list, ER's folds.

    task     corpus folder                   read of it
    pr, asr  LibriSpeech                     {train-clean-100,dev-clean,test-clean}/SPK/CHAP/*.flac, *.trans.txt;
                                             pr: librispeech-lexicon*.txt
    ks       speech_commands_v0.01           WORD/*.wav, _background_noise_/*.wav
             speech_commands_test_set_v0.01  CLASS/*.wav for the 12 classes
    qbe      quesst14Database                Audio, dev_queries, eval_queries, scoring/language_key_*.lst,
                                             scoring/groundtruth_quesst14_{dev,eval}
    sid, sv  VoxCeleb1                       {dev,test}/wav/idNNNNN/VIDEO/*.wav;
                                             sid: veri_test_class.txt or iden_split.txt; sv: voxceleb1_test_v2.txt or
                                             veri_test2.txt
    sd       diarization                     {train,dev,test}/: kaldi folders; or, in their place, a corpus folder
                                             Libri2Mix and a clone of LibriMix beside it, from which they are written
    ic       fluent_speech_commands_dataset  data/{train,valid,test}_data.csv, wavs/speakers/SPK/*.wav
    sf       SNIPS                           {train,valid,test}/*.wav, all.iob.snips.txt, slots.txt
    er       IEMOCAP                         SessionN/sentences/wav, SessionN/dialog/EmoEvaluation, meta_data (optional)
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..parsing import shown
from ..s3prl_plugin.parts import iemocap, libri2mix, librispeech
from . import official
from .official import FOLDS
from .tasks import TASKS

CORPORA = tuple(dict.fromkeys(corpus for task in TASKS.values() for corpus in task.corpora))
OPTIONAL_CORPORA = ("Libri2Mix", "LibriMix")

LIBRISPEECH_SPLITS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}
KEYWORD_CLASSES = (
    "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_",
)  # fmt: skip
OFFICIAL_LEXICONS = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
OFFICIAL_SPLIT_LISTS = ("veri_test_class.txt", "iden_split.txt")  # the second is VoxCeleb's own name of the same list
OFFICIAL_TRIAL_LIST = "voxceleb1_test_v2.txt"
SHOWN = 3
"""Reasons of a kind that a note gives in full; ER alone has ten lists."""
KALDI_FILES = {"segments": 4, "utt2spk": 2, "spk2utt": 2, "reco2dur": 2, "rttm": 8}
"""File of a kaldi folder -> fields that its lines have, at least."""


@dataclass(frozen=True)
class Data:
    """The corpora of one user.

    Attributes:
        root: folder with the corpora's folders.
        elsewhere: corpus name -> its folder, where it is not under `root`.
        clone: a clone of s3prl, or None.
    """

    root: Path
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    clone: Path | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(self.elsewhere.keys() - {*CORPORA, *OPTIONAL_CORPORA}):
            raise DataError(f"unknown corpus '{unknown[0]}'; the corpora are {', '.join(CORPORA + OPTIONAL_CORPORA)}")
        if self.clone is not None and self.clone_downstream is None:
            raise DataError(f"{self.clone} is not a clone of s3prl: it has no folder s3prl/downstream")

    def corpus(self, name: str) -> Path:
        """The corpus's folder; absolute, since it goes into configurations that outlive this working directory."""
        return self.elsewhere.get(name, self.root / name).absolute()

    @property
    def clone_downstream(self) -> Path | None:
        """The clone's `downstream` folder, inside the package or, in old clones, beside it."""
        if self.clone is None:
            return None
        clone = self.clone.absolute()
        return next((path for path in (clone / "s3prl/downstream", clone / "downstream") if path.is_dir()), None)

    def first(self, in_clone: Sequence[str], in_corpus: Sequence[Path]) -> Path | None:
        """The first that exists, the clone's before the corpus's."""
        clone = self.clone_downstream
        candidates = [clone / name for name in in_clone] if clone else []
        return next((path for path in [*candidates, *in_corpus] if path.exists()), None)

    def lexicons(self) -> list[Path]:
        """PR's lexicons: the clone's two, else what LibriSpeech's folder holds."""
        folder = self.corpus("LibriSpeech")
        for place in (self.clone_downstream and self.clone_downstream / "ctc/lexicon", folder):
            if place and all((place / name).is_file() for name in OFFICIAL_LEXICONS):
                return [place / name for name in OFFICIAL_LEXICONS]
        return sorted(folder.glob("librispeech-lexicon*.txt"))

    def split_list(self) -> Path | None:
        """SID's list of files: 1, 2, 3 = train, dev, test."""
        folder = self.corpus("VoxCeleb1")
        return self.first(["voxceleb1/veri_test_class.txt"], [folder / name for name in OFFICIAL_SPLIT_LISTS])

    def trial_list(self) -> Path | None:
        """SV's trials: 1 or 0, file, file."""
        folder = self.corpus("VoxCeleb1")
        return self.first(
            [f"sv_voxceleb1/{OFFICIAL_TRIAL_LIST}"], [folder / OFFICIAL_TRIAL_LIST, folder / "veri_test2.txt"]
        )

    def emotion_folds(self) -> Path | None:
        """ER's folder with SessionN/{train,test}_meta_data.json; None where they are still to be written."""
        return self.first(["emotion/meta_data"], [self.corpus("IEMOCAP") / "meta_data"])


@dataclass
class Inventory:
    """What was found of one task's data.

    Attributes:
        problems: what keeps the task from running, one sentence each.
        counts: items by part, to compare with the official ones.
        substitutes: what stands in for official lists.
        changed: lists that have the name of one that s3prl ships, and another content.
        lists: SHA-256 of the lists that the result rests on, by file name.
    """

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    substitutes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)

    def exists(self, path: Path, what: str) -> bool:
        """Whether a path exists; if not, the problem is noted."""
        if not path.exists():
            self.problems.append(f"{path} is missing: {what}")
        return path.exists()

    def all_exist(self, paths: Iterable[Path], what: str) -> bool:
        """Whether all exist; each that does not is noted."""
        return sum(not self.exists(path, what) for path in paths) == 0

    def audio(self, files: Iterable[Path], wanted_by: str) -> int:
        """Note missing, empty and unreadable recordings; returns how many there should be."""
        files = list(files)
        missing, empty = [], []
        for folder, names in _by_folder(files).items():
            sizes = _sizes(folder)
            missing += [folder / name for name in names if name not in sizes]
            empty += [folder / name for name in names if sizes.get(name) == 0]
        if missing:
            self.problems.append(
                f"{len(missing)} of {len(files)} recordings of {wanted_by} are missing, e.g. {missing[0]}"
            )
        if empty:
            self.problems.append(f"{len(empty)} of {len(files)} recordings of {wanted_by} are empty, e.g. {empty[0]}")
        if files and not missing and not empty:
            self.problems += [problem for file in {files[0], files[-1]} if (problem := _unreadable(file))]
        return len(files)

    def record(self, path: Path, name: str | None = None) -> None:
        """Note a list's hash; one that s3prl ships and that is another here is a substitute."""
        name = name or path.name
        self.lists[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.lists[name] != official.SHA256.get(name, self.lists[name]):
            self.changed.append(name)

    def deviations(self, task: str) -> list[str]:
        """Why a result on these data is not official; empty if it is."""
        counted = {part: self.counts.get(part, 0) for part in official.COUNTS[task]}
        wrong = [
            f"{part}: {found} item{'s' * (found != 1)}, officially {' or '.join(map(str, official.COUNTS[task][part]))}"
            for part, found in counted.items()
            if found not in official.COUNTS[task][part]
        ]
        said = [f"not the official data ({_first(wrong, '; ')})"] if wrong else []
        if self.changed:
            verb = "is" if len(self.changed) == 1 else "are"
            said.append(f"{_first(self.changed, ', ')} {verb} not s3prl's: other content, order or line ends")
        return said + self.substitutes


def take_inventory(task: str, data: Data) -> Inventory:
    """Look at every file that the task needs, by name and size, and at a few by content."""
    inventory = Inventory()
    missing = [corpus for corpus in TASKS[task].corpora if not data.corpus(corpus).is_dir()]
    if missing and not (task == "sd" and data.corpus("Libri2Mix").is_dir()):
        inventory.problems += [f"the folder {data.corpus(corpus)} is missing" for corpus in missing]
        return inventory
    try:
        _INVENTORIES[task](data, inventory)
    except UnicodeDecodeError as error:
        inventory.problems.append(f"a list of {task} is not UTF-8: {error}")
    except (OSError, ValueError, KeyError, DataError) as error:
        inventory.problems.append(f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error))
    return inventory


def _librispeech(data: Data, found: Inventory) -> list[librispeech.Utterance]:
    everything = []
    for part, split in LIBRISPEECH_SPLITS.items():
        try:
            utterances = librispeech.find_utterances(data.corpus("LibriSpeech"), [split])
        except DataError as error:
            found.problems.append(str(error))
            continue
        found.counts[part] = found.audio([utterance.path for utterance in utterances], split)
        everything += utterances
    return everything


def _pr(data: Data, found: Inventory) -> None:
    utterances = _librispeech(data, found)
    lexicons = data.lexicons()
    if not lexicons:
        found.problems.append(
            f"{data.corpus('LibriSpeech')} holds no librispeech-lexicon*.txt: copy s3prl's two from a clone, "
            "or name the clone"
        )
        return
    librispeech.require_pronunciations(utterances, librispeech.read_lexicon(lexicons))
    for lexicon in lexicons:
        found.record(lexicon)
    if tuple(lexicon.name for lexicon in lexicons) != OFFICIAL_LEXICONS:
        found.substitutes.append(
            f"lexicon {', '.join(path.name for path in lexicons)} instead of s3prl's two g2p lexicons"
        )


def _asr(data: Data, found: Inventory) -> None:
    _librispeech(data, found)


def _ks(data: Data, found: Inventory) -> None:
    training, testing = (data.corpus(name) for name in TASKS["ks"].corpora)
    noise = training / "_background_noise_"
    words = sorted(folder for folder in training.iterdir() if folder.is_dir() and folder != noise)
    for name in KEYWORD_CLASSES[:10]:
        found.exists(training / name, "recordings of a keyword")
    if found.exists(noise, "the noises from which silence is cut"):
        found.audio(_wavs(noise), "the background noise")
    found.counts["train and dev"] = found.audio([wav for word in words for wav in _wavs(word)], training.name)
    classes = [testing / name for name in KEYWORD_CLASSES if found.exists(testing / name, "one of the 12 test classes")]
    strangers = sorted({path.name for path in testing.iterdir() if path.is_dir()} - set(KEYWORD_CLASSES))
    if strangers:
        found.problems.append(f"{testing / strangers[0]} is none of the 12 test classes")
    found.counts["test"] = found.audio([wav for folder in classes for wav in _wavs(folder)], testing.name)


def _qbe(data: Data, found: Inventory) -> None:
    root = data.corpus("quesst14Database")
    for part, key in {"recordings": "utterances", "dev queries": "dev", "eval queries": "eval"}.items():
        listing = root / "scoring" / f"language_key_{key}.lst"
        if found.exists(listing, "which recordings are English"):
            lines = _rows(listing, 2, "a path and a language")
            # a listed path starts with the name that the archive once had
            english = [root / path.partition("/")[2] for path, language, *_ in lines if language == "nnenglish"]
            found.counts[part] = found.audio(english, listing.name)
    for split in ("dev", "eval"):
        folder = root / f"scoring/groundtruth_quesst14_{split}"
        if found.exists(folder, "where the queries occur"):
            for pattern in ("*.rttm", "*.ecf.xml", "*.tlist.xml"):
                if not list(folder.glob(pattern)):
                    found.problems.append(f"{folder} holds no {pattern}")


def _sid(data: Data, found: Inventory) -> None:
    root, listing = data.corpus("VoxCeleb1"), data.split_list()
    if listing is None:
        found.problems.append(f"{root} holds no veri_test_class.txt: copy it from a clone of s3prl, or name the clone")
        return
    found.record(listing)
    entries = _rows(listing, 2, "1, 2 or 3 and a path")
    halves = {speaker: half for half in ("dev", "test") for speaker in _names(root / half / "wav")}
    for number, part in {"1": "train", "2": "dev", "3": "test"}.items():
        files = [name for which, name, *_ in entries if which == number]
        if not files:
            found.problems.append(f"{listing} lists no recording for {part} (lines that begin with {number})")
        found.counts[part] = found.audio(
            [root / halves.get(name.partition("/")[0], "dev") / "wav" / name for name in files],
            f"{listing.name}, {part}",
        )


def _sv(data: Data, found: Inventory) -> None:
    root, listing = data.corpus("VoxCeleb1"), data.trial_list()
    training = sorted((root / "dev/wav").glob("*/*/*.wav"))
    if not training:
        found.problems.append(f"{root / 'dev/wav'} holds no recording: the archive is not, or not wholly, extracted")
    found.counts["train"] = found.audio(training, "VoxCeleb1/dev")
    if listing is None:
        found.problems.append(
            f"{root} holds no {OFFICIAL_TRIAL_LIST}: copy it from a clone of s3prl, or name the clone"
        )
        return
    found.record(listing)
    if listing.name != OFFICIAL_TRIAL_LIST:
        found.substitutes.append(f"trial list {listing.name} instead of {OFFICIAL_TRIAL_LIST}")
    trials = _rows(listing, 3, "1 or 0 and two paths")
    if not {label for label, *_ in trials} <= {"0", "1"}:
        found.problems.append(f"{listing} is no list of trials: it has lines that begin with neither 1 nor 0")
    found.counts["trials"] = len(trials)
    found.audio(sorted({root / "test/wav" / name for _, *pair in trials for name in pair}), listing.name)


def _sd(data: Data, found: Inventory) -> None:
    root = data.corpus("diarization")
    if not root.is_dir():
        for split, turns in libri2mix.TURN_FILES.items():
            mixtures = libri2mix.mixtures(data.corpus("Libri2Mix"), split)
            if found.exists(mixtures, "LibriMix's list of mixtures"):
                found.counts[split] = len(mixtures.read_text(encoding="utf-8").splitlines()) - 1
            found.exists(
                data.corpus("LibriMix") / "metadata/LibriSpeech" / turns, "speaker turns, in a clone of LibriMix"
            )
        return
    for split in libri2mix.TURN_FILES:
        if found.all_exist([root / split / name for name in KALDI_FILES], "part of a kaldi folder"):
            for name, fields in KALDI_FILES.items():
                _rows(root / split / name, fields, "those of kaldi")
            found.counts[split] = found.audio(kaldi_recordings(root / split).values(), f"diarization/{split}")


def kaldi_recordings(folder: Path) -> dict[str, Path]:
    """Recording -> audio file of a kaldi folder; without a wav.scp, from its folder `wav`, as s3prl has it."""
    scp = folder / "wav.scp"
    if not scp.exists():
        return {path.stem: path for path in sorted((folder / "wav").glob("*.wav"))}
    lines = (line.split(None, 1) for line in scp.read_text(encoding="utf-8").splitlines() if line.strip())
    return {recording: Path(path) for recording, path in lines if not path.endswith("|")}  # "|" ends a shell command


def _ic(data: Data, found: Inventory) -> None:
    root = data.corpus("fluent_speech_commands_dataset")
    known: dict[str, set[str]] = {}
    for part in ("train", "valid", "test"):
        table = root / "data" / f"{part}_data.csv"
        if not found.exists(table, "the list of commands"):
            continue
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or (absent := {"path", "action", "object", "location"} - rows[0].keys()):
            found.problems.append(f"{table} lacks rows or the columns {', '.join(sorted(absent)) if rows else ''}")
            continue
        if any(not row[key] or "\0" in row[key] for row in rows for key in ("path", "action", "object", "location")):
            found.problems.append(f"{table} has lines without a path, an action, an object or a location")
            continue
        found.counts[part] = found.audio([root / row["path"] for row in rows], table.name)
        for slot in ("action", "object", "location"):
            values = {row[slot] for row in rows}
            if unseen := values - known.setdefault(slot, values):
                found.problems.append(f"{table}: the {slot} '{min(unseen)}' does not occur in train_data.csv")


def _sf(data: Data, found: Inventory) -> None:
    root = data.corpus("SNIPS")
    if found.exists(root / "all.iob.snips.txt", "sentences and slots"):
        _rows(root / "all.iob.snips.txt", 2, "a recording and its sentence")
    if found.exists(root / "slots.txt", "the names of the slots"):
        _rows(root / "slots.txt", 1, "a slot")
    for part in ("train", "valid", "test"):
        if found.exists(root / part, "recordings"):
            found.counts[part] = found.audio(sorted((root / part).rglob("*.wav")), f"SNIPS/{part}")
            if not found.counts[part]:
                found.problems.append(f"{root / part} holds no .wav file")


def _er(data: Data, found: Inventory) -> None:
    root, folds = data.corpus("IEMOCAP"), data.emotion_folds()
    if folds is None:
        found.substitutes.append("folds written from EmoEvaluation, in another order than s3prl's meta_data")
        found.counts |= {part: sizes[0] for part, sizes in official.COUNTS["er"].items()}  # that is reason enough
    for session in FOLDS:
        if folds is None:
            found.exists(root / session / "dialog/EmoEvaluation", "the emotion labels")
            found.exists(root / session / "sentences/wav", "recordings")
            continue
        for part in ("train", "test"):
            listing = folds / session / f"{part}_meta_data.json"
            if found.exists(listing, "a fold"):
                recordings = iemocap.read_fold(listing).recordings
                if not recordings:
                    found.problems.append(f"{listing} lists no recording")
                found.record(listing, f"{session}/{listing.name}")
                name = session if part == "test" else f"{session}, {part}"
                found.counts[name] = found.audio([root / path for path in recordings], name)


_INVENTORIES: Mapping[str, Callable[[Data, Inventory], None]] = {
    "pr": _pr, "asr": _asr, "ks": _ks, "qbe": _qbe, "sid": _sid, "sv": _sv, "sd": _sd, "ic": _ic, "sf": _sf, "er": _er,
}  # fmt: skip


def _rows(path: Path, fields: int, what: str) -> list[list[str]]:
    """The lines of a list, split at blanks, each with so many fields or more.

    Raises:
        DataError: a line is damaged, or there is none.
    """
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8") from error
    if not rows:
        raise DataError(f"{path} is empty")
    for row in rows:
        if len(row) < fields or "\0" in "".join(row):
            raise DataError(f"{path}: the line {shown(' '.join(row))} is damaged; its fields are {what}")
    return rows


def _first(entries: Sequence[str], separator: str) -> str:
    """Three of them, and how many there are beyond."""
    more = len(entries) - SHOWN
    return separator.join(entries[:SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")


def _by_folder(files: Iterable[Path]) -> dict[Path, list[str]]:
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    return folders


def _sizes(folder: Path) -> dict[str, int]:
    """File name -> bytes; one listing of a folder is far quicker than one question per file."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _wavs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wav"))


def _unreadable(file: Path) -> str | None:
    import soundfile

    try:
        return None if soundfile.info(file).frames else f"{file} holds no sound"
    except soundfile.SoundFileError as error:
        return f"{file} cannot be read as audio: {error}"
