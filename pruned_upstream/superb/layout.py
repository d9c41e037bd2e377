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

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..parsing import read_lines, repeated, shown
from ..s3prl_plugin import recordings
from ..s3prl_plugin.parts import iemocap, libri2mix, librispeech, snips, vocabularies
from . import kaldi, mtwv, official
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
SAMPLED = 16
"""Recordings of a list that are opened; a look at each of a corpus would take minutes."""
SPEAKER_IDS = range(10001, 11252)
"""VoxCeleb1's; the head of speaker identification has a class for each."""
NOISE_SECONDS = 1.0
"""What keyword spotting cuts from background noise, for silence."""
SLOTS = ("action", "object", "location")
FOUND = ("aac", "au", "flac", "m4a", "mp3", "ogg", "wav")
"""Endings of what speaker verification trains on, in small or in capitals (librosa.util.find_files)."""
Sampled = TypeVar("Sampled")


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
        repeated: what is listed several times, or for training and for test; s3prl takes it as it is.
        lists: SHA-256 of the lists that the result rests on, by file name.
        as_they_are: whether s3prl neither mixes nor resamples the recordings.
    """

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    substitutes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)
    as_they_are: bool = True

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
        if not missing and not empty:
            self.problems += [fault for file in _sample(files) if (fault := self._fault(file))][:SHOWN]
        return len(files)

    def _fault(self, file: Path) -> str | None:
        import soundfile

        try:
            found = soundfile.info(file)
            if not found.frames:
                return f"{file} holds no sound"
            # FLAC says at its beginning how long it is
            frames = len(soundfile.read(file, dtype="int16")[0]) if found.format == "FLAC" else found.frames
        except soundfile.SoundFileError as error:
            return f"{file} cannot be read as audio: {error}"
        if frames < found.frames:
            return f"{file} is cut off: {frames} of {found.frames} samples can be read"
        return recordings.wrong_format(file, found.samplerate, found.channels) if self.as_they_are else None

    def record(self, path: Path, name: str | None = None) -> bool:
        """Note a list's hash; one that s3prl ships and that is another here is a substitute.

        Returns:
            whether it is s3prl's, bit by bit; what it says is then right.
        """
        name = name or path.name
        self.lists[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.lists[name] != official.SHA256.get(name, self.lists[name]):
            self.changed.append(name)
        return self.lists[name] == official.SHA256.get(name)

    def once(self, where: str, names: Iterable[str]) -> None:
        """Note what comes more than once."""
        if several := repeated(names):
            more = f" and {len(several) - 1} more" if len(several) > 1 else ""
            self.repeated.append(f"{where}: {shown(several[0])}{more} several times")

    def check(self, require: Callable[..., Any], *args: Any) -> None:
        """Note what a function raises that refuses bad input."""
        try:
            require(*args)
        except DataError as error:
            self.problems.append(str(error))

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
        return said + self.substitutes + self.repeated


def take_inventory(task: str, data: Data) -> Inventory:
    """Look at each list that the task needs, line by line, and at its recordings by name and size, some by content."""
    inventory = Inventory(as_they_are=task not in recordings.MIXED_AND_RESAMPLED)
    missing = [corpus for corpus in TASKS[task].corpora if not data.corpus(corpus).is_dir()]
    if missing and not (task == "sd" and data.corpus("Libri2Mix").is_dir()):
        inventory.problems += [f"the folder {data.corpus(corpus)} is missing" for corpus in missing]
        return inventory
    try:
        _INVENTORIES[task](data, inventory)
    except (OSError, DataError) as error:
        inventory.problems.append(str(error))
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
        if silent := librispeech.untranscribed(data.corpus("LibriSpeech"), utterances, split):
            found.problems.append(f"{len(silent)} recordings of {split} have no transcript, e.g. {silent[0]}")
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
    pronunciations = librispeech.read_lexicon(lexicons)
    found.check(librispeech.require_pronunciations, utterances, pronunciations)
    strangers = {phone for phones in pronunciations.values() for phone in phones} - set(vocabularies.PHONEMES)
    if strangers:
        found.problems.append(f"the lexicon has phonemes outside the vocabulary: {' '.join(sorted(strangers))}")
    for lexicon in lexicons:
        found.record(lexicon)
    if tuple(lexicon.name for lexicon in lexicons) != OFFICIAL_LEXICONS:
        found.substitutes.append(
            f"lexicon {', '.join(path.name for path in lexicons)} instead of s3prl's two g2p lexicons"
        )


def _asr(data: Data, found: Inventory) -> None:
    letters = {letter for utterance in _librispeech(data, found) for letter in utterance.transcript.upper()}
    if strangers := letters - {" ", *vocabularies.ASR_CHARACTERS}:
        found.problems.append(f"transcripts have characters outside the dictionary: {' '.join(sorted(strangers))}")


def _ks(data: Data, found: Inventory) -> None:
    training, testing = (data.corpus(name) for name in TASKS["ks"].corpora)
    noise = training / "_background_noise_"
    words = sorted(folder for folder in training.iterdir() if folder.is_dir() and folder != noise)
    for name in KEYWORD_CLASSES[:10]:
        found.exists(training / name, "recordings of a keyword")
    if found.exists(noise, "the noises from which silence is cut"):
        if not found.audio(_wavs(noise), "the background noise"):
            found.problems.append(f"{noise} holds no .wav file")
        _long_enough(_wavs(noise), found)
    spoken = [wav for word in words for wav in _wavs(word)]
    found.counts["train and dev"] = found.audio(spoken, training.name)
    parts = {_keyword_part(wav) for wav in spoken}
    if "train" not in parts:
        found.problems.append(f"{training} has no recording to train on: who speaks in one decides on its part")
    elif "dev" not in parts:
        found.substitutes.append("the development set is background noise alone")
    classes = [testing / name for name in KEYWORD_CLASSES if found.exists(testing / name, "one of the 12 test classes")]
    folders = {path.name for path in testing.iterdir() if any(path.glob("*.wav"))}
    strangers = sorted(folders - set(KEYWORD_CLASSES))
    if strangers:
        found.problems.append(f"{testing / strangers[0]} is none of the 12 test classes")
    found.counts["test"] = found.audio([wav for folder in classes for wav in _wavs(folder)], testing.name)
    if not found.counts["test"]:
        found.problems.append(f"{testing} holds no recording")


def _long_enough(noises: Iterable[Path], found: Inventory) -> None:
    import soundfile

    for noise in noises:
        try:
            seconds = soundfile.info(noise).duration
        except soundfile.SoundFileError:
            continue  # `audio` has said it
        if seconds < NOISE_SECONDS:
            found.problems.append(f"{noise} lasts {seconds:g} s; s3prl cuts pieces of {NOISE_SECONDS:g} s from it")


def _keyword_part(recording: Path) -> str:
    """Where s3prl puts it, by a hash of its speaker (downstream/speech_commands/expert.py, `split_dataset`)."""
    largest = (1 << 27) - 1
    digest = hashlib.sha1(recording.name.partition("_nohash_")[0].encode(), usedforsecurity=False).hexdigest()
    percentage = int(digest, 16) % (largest + 1) * (100 / largest)
    return "dev" if percentage < 10 else "left out" if percentage < 20 else "train"


def _qbe(data: Data, found: Inventory) -> None:
    root = data.corpus("quesst14Database")
    for part, key in {"recordings": "utterances", "dev queries": "dev", "eval queries": "eval"}.items():
        listing = root / "scoring" / f"language_key_{key}.lst"
        if found.exists(listing, "which recordings are English"):
            lines = _rows(listing, 2, "a path and a language", more=False)
            # a listed path starts with the name that the archive once had
            english = [root / path.partition("/")[2] for path, language in lines if language == "nnenglish"]
            found.once(listing.name, map(str, english))
            found.counts[part] = found.audio(english, listing.name)
            if not english:
                found.problems.append(f"{listing} names no English recording (nnenglish)")
    for split in ("dev", "eval"):
        folder = root / f"scoring/groundtruth_quesst14_{split}"
        if found.exists(folder, "where the queries occur"):
            found.check(mtwv.read_ground_truth, folder)


def _sid(data: Data, found: Inventory) -> None:
    root, listing = data.corpus("VoxCeleb1"), data.split_list()
    if listing is None:
        found.problems.append(f"{root} holds no veri_test_class.txt: copy it from a clone of s3prl, or name the clone")
        return
    found.record(listing)
    entries = _rows(listing, 2, "1, 2 or 3 and a path")
    found.once(listing.name, (name for _, name, *_ in entries))
    for which, name, *_ in entries:
        if which not in ("1", "2", "3"):
            raise DataError(f"{listing} lists {shown(name)} for part {shown(which)}; there are 1, 2 and 3")
        speaker = name.partition("/")[0]
        if not (speaker[:2] == "id" and speaker[2:].isdecimal() and int(speaker[2:]) in SPEAKER_IDS):
            there = f"id{SPEAKER_IDS[0]} to id{SPEAKER_IDS[-1]}"
            raise DataError(f"{listing} lists {shown(name)}; the speakers of VoxCeleb1 are {there}")
    halves: dict[str, list[Path]] = {}
    for half in sorted(root.glob("*/wav")):  # s3prl looks into each
        for speaker in _names(half):
            halves.setdefault(speaker, []).append(half)

    def recording(name: str) -> Path:
        first, *more = halves.get(name.partition("/")[0], [root / "dev/wav"])
        return next((half / name for half in more if (half / name).exists()), first / name)

    for number, part in {"1": "train", "2": "dev", "3": "test"}.items():
        files = [name for which, name, *_ in entries if which == number]
        if not files:
            found.problems.append(f"{listing} lists no recording for {part} (lines that begin with {number})")
        found.counts[part] = found.audio(map(recording, files), f"{listing.name}, {part}")


def _sv(data: Data, found: Inventory) -> None:
    root, listing = data.corpus("VoxCeleb1"), data.trial_list()
    training = sorted(path for path in (root / "dev/wav").rglob("[!.]*.*") if path.suffix[1:].lower() in FOUND)
    if not training:
        found.problems.append(f"{root / 'dev/wav'} holds no recording: the archive is not, or not wholly, extracted")
    found.counts["train"] = found.audio(training, "VoxCeleb1/dev")
    if listing is None:
        found.problems.append(
            f"{root} holds no {OFFICIAL_TRIAL_LIST}: copy it from a clone of s3prl, or name the clone"
        )
        return
    known = found.record(listing)
    if listing.name != OFFICIAL_TRIAL_LIST:
        found.substitutes.append(f"trial list {listing.name} instead of {OFFICIAL_TRIAL_LIST}")
    trials = _rows(listing, 3, "1 or 0 and two paths")
    if not {label for label, *_ in trials} <= {"0", "1"}:
        found.problems.append(f"{listing} is no list of trials: it has lines that begin with neither 1 nor 0")
    found.counts["trials"] = len(trials)
    if not known:
        _check_trials(listing, trials, found)
    found.audio(sorted({root / "test/wav" / name for _, *pair in trials for name in pair}), listing.name)


def _check_trials(listing: Path, trials: Sequence[Sequence[str]], found: Inventory) -> None:
    labels: dict[tuple[str, str], str] = {}
    for label, *pair in trials:
        if labels.setdefault((pair[0], pair[1]), label) != label:
            trial = shown(" ".join(pair[:2]))
            found.problems.append(f"{listing} has the trial {trial} with both labels")
            return
    if len(set(labels.values())) < 2:
        kind = "the same speaker" if "1" in labels.values() else "different speakers"
        found.problems.append(f"{listing} has trials of {kind} alone; an equal error rate needs both")
    if len(labels) < len(trials):
        found.repeated.append(f"{listing.name} has {len(trials) - len(labels)} of {len(trials)} trials a second time")


def _sd(data: Data, found: Inventory) -> None:
    root = data.corpus("diarization")
    if not root.is_dir():
        for split, turns in libri2mix.TURN_FILES.items():
            mixtures = libri2mix.mixtures(data.corpus("Libri2Mix"), split)
            if found.exists(mixtures, "LibriMix's list of mixtures"):
                found.counts[split] = len(read_lines(mixtures)) - 1
            found.exists(
                data.corpus("LibriMix") / "metadata/LibriSpeech" / turns, "speaker turns, in a clone of LibriMix"
            )
        return
    for split in libri2mix.TURN_FILES:
        if found.all_exist([root / split / name for name in kaldi.REQUIRED], "part of a kaldi folder"):
            found.check(_kaldi_folder, root / split, found)


def _kaldi_folder(folder: Path, found: Inventory) -> None:
    import soundfile

    audio = kaldi.recordings(folder)
    found.counts[folder.name] = found.audio(audio.values(), f"diarization/{folder.name}")
    seconds = kaldi.require_sound(folder)
    for recording in _sample(list(audio)):
        with contextlib.suppress(soundfile.SoundFileError):  # `audio` has said it
            lasts = soundfile.info(audio[recording]).duration
            if abs(lasts - seconds[recording]) > kaldi.TOLERANCE:
                raise DataError(
                    f"{folder / 'reco2dur'} says that {shown(recording)} lasts {seconds[recording]:g} s; it lasts "
                    f"{lasts:g} s"
                )


def _ic(data: Data, found: Inventory) -> None:
    root = data.corpus("fluent_speech_commands_dataset")
    known: dict[str, set[Any]] = {}
    listed: dict[str, list[str]] = {}
    for part in ("train", "valid", "test"):
        table = root / "data" / f"{part}_data.csv"
        if not found.exists(table, "the list of commands"):
            continue
        rows = _commands(table)
        listed[part] = list(rows["path"])
        found.counts[part] = found.audio([root / path for path in listed[part]], table.name)
        for slot in SLOTS:
            values = set(rows[slot])
            if unseen := values - known.setdefault(slot, values):
                found.problems.append(
                    f"{table}: the {slot} {shown(min(unseen, key=str))} does not occur in train_data.csv"
                )
    found.once("its csv files together", (path for paths in listed.values() for path in paths))


def _commands(table: Path) -> Any:
    """One of IC's lists as s3prl reads it, with pandas, to which `None` or `NA` is no value."""
    import pandas

    try:
        rows = pandas.read_csv(table)
    except (ValueError, OSError) as error:  # the first: not UTF-8, no columns, or lines of several lengths
        raise DataError(f"{table} cannot be read as a csv file in UTF-8: {error}") from error
    absent = [column for column in ("path", *SLOTS) if column not in rows]
    if absent or not len(rows):
        raise DataError(f"{table} lacks {'the columns ' + ', '.join(absent) if absent else 'lines'}")
    for column in ("path", *SLOTS):
        if rows[column].isna().any():
            line = int(rows[column].isna().argmax()) + 2
            raise DataError(f"{table}, line {line}: there is no {column}, or one that means none (None, NA, null)")
    if any("\0" in str(path) for path in rows["path"]):
        raise DataError(f"{table} is damaged: a path holds a zero byte")
    return rows


def _sf(data: Data, found: Inventory) -> None:
    root = data.corpus("SNIPS")
    sentences: Mapping[str, str] | None = None
    if found.exists(root / snips.SENTENCES, "sentences and slots"):
        sentences = snips.read_sentences(root / snips.SENTENCES)
    if found.exists(root / snips.SLOTS, "the names of the slots"):
        found.check(snips.require_slots, sentences or {}, snips.read_slots(root / snips.SLOTS), root / snips.SLOTS)
    for part, speakers in snips.SPEAKERS.items():
        if found.exists(root / part, "recordings"):
            wavs = snips.recordings(root / part, speakers)
            found.counts[part] = found.audio(wavs, f"SNIPS/{part}")
            if not wavs:
                found.problems.append(f"{root / part} holds no .wav file of its speakers: {', '.join(speakers)}")
            if sentences and (silent := [wav for wav in wavs if wav.stem not in sentences]):
                found.problems.append(
                    f"{len(silent)} of {len(wavs)} recordings of SNIPS/{part} have no line in {snips.SENTENCES}, e.g. "
                    f"{silent[0]}"
                )


def _er(data: Data, found: Inventory) -> None:
    root, folds = data.corpus("IEMOCAP"), data.emotion_folds()
    if folds is None:
        found.substitutes.append("folds written from EmoEvaluation, in another order than s3prl's meta_data")
        found.counts |= {part: sizes[0] for part, sizes in official.COUNTS["er"].items()}  # that is reason enough
        for session in FOLDS:
            labels = found.exists(root / session / "dialog/EmoEvaluation", "the emotion labels")
            if found.exists(root / session / "sentences/wav", "recordings") and labels:
                entries = iemocap.read_labels(root, session)
                found.audio([root / entry["path"] for entry in entries], session)
        return
    read, known = {}, True
    for session in FOLDS:
        lists = {part: folds / session / f"{part}_meta_data.json" for part in ("train", "test")}
        if not found.all_exist(lists.values(), "a fold"):
            continue
        for part, listing in lists.items():
            read[session, part] = fold = iemocap.read_fold(listing)
            known &= found.record(listing, f"{session}/{listing.name}")
            if not fold.recordings:
                found.problems.append(f"{listing} lists no recording")
            name = session if part == "test" else f"{session}, {part}"
            found.counts[name] = found.audio([root / path for path in fold.recordings], name)
    if not known:
        whole = [session for session in FOLDS if (session, "test") in read]
        lists_read = {session: (read[session, "train"], read[session, "test"]) for session in whole}
        found.check(iemocap.require_same_emotions, lists_read)
        found.repeated += iemocap.mixed(lists_read)


_INVENTORIES: Mapping[str, Callable[[Data, Inventory], None]] = {
    "pr": _pr, "asr": _asr, "ks": _ks, "qbe": _qbe, "sid": _sid, "sv": _sv, "sd": _sd, "ic": _ic, "sf": _sf, "er": _er,
}  # fmt: skip


def _rows(path: Path, fields: int, what: str, *, more: bool = True) -> list[list[str]]:
    """The lines of a list, split at blanks, each with so many fields or, where `more` are left unread, at least those.

    Raises:
        DataError: a line is damaged, or there is none.
    """
    rows = [line.split() for line in read_lines(path)]
    if not any(rows):
        raise DataError(f"{path} is empty")
    for number, row in enumerate(rows, 1):
        if not row:
            raise DataError(f"{path}: line {number} is empty, which s3prl cannot read")
        if len(row) < fields or (len(row) > fields and not more):
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


def _sample(files: Sequence[Sampled]) -> list[Sampled]:
    """Some from first to last, evenly."""
    if len(files) <= SAMPLED:
        return list(files)
    return [files[place * (len(files) - 1) // (SAMPLED - 1)] for place in range(SAMPLED)]
