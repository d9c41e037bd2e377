"""The recordings of a run: found in folders or fairseq manifests, measured by their headers, read as 16 kHz mono."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import write_text
from ..model.config import SAMPLE_RATE
from ..parsing import as_utf8, plain_file, read_json

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph"}
HEADERS_FILE = "headers.json"  # of a run, what `find_corpus` keeps there
SHOWN = 5  # files named in a message before "and so many more"
RATES = range(1_000, 384_001)  # Hz; what lies outside is a damaged header, and would take gigabytes to resample
MOST_FRAMES_A_BYTE = 8192  # more than any codec makes of silence: a header that says so is wrong
TOGETHER = 64  # headers that a thread reads before it takes others
MOST_THREADS, SPARE_THREADS = 32, 4  # that read headers; more than there are processors, for some wait for the disk
HASHED_WHOLE = 1 << 16  # bytes; of longer files
HASHED_BLOCKS, HASHED_BLOCK = 4, 1 << 12  # so many blocks of so many bytes count for the fingerprint

TRAINING_PART = re.compile(r"train-.+")  # LibriSpeech's parts, and those of corpora laid out like it
OTHER_PART = re.compile(r"(dev|test)-.+")
KNOWN_TEST_SETS = re.compile(r"(dev|test)[-_](clean|other)")
HELD_OUT_WORDS = frozenset(
    "dev devel devset development test tests testset testing tst val valid validation eval evalset evaluation "
    "heldout holdout".split()
)
HELD_OUT = re.compile(r"(held|hold)[-_ ]?out")
LOUDEST = 2.0**32  # of a sample: integers of 32 bits that somebody wrote as floating point have at most half of it


class BadRecording(Exception):
    """One recording cannot be used; the sentence says why. It is left out, and the run goes on."""


@dataclass(frozen=True)
class Header:
    """What the head of an audio file says, and what tells its content from others' (a hash)."""

    frames: int
    rate: int
    channels: int
    content: str = ""

    @property
    def samples(self) -> int:
        """Length at 16 kHz. Resampling keeps one frame in hand, so that a crop never reaches past the end."""
        return self.frames if self.rate == SAMPLE_RATE else max(0, self.frames - 1) * SAMPLE_RATE // self.rate


@dataclass(frozen=True)
class Utterance:
    """A recording. `name` is its path below the folder or manifest root that held it; `samples` is at 16 kHz."""

    name: str
    path: Path
    header: Header

    @property
    def samples(self) -> int:
        """Its length at 16 kHz."""
        return self.header.samples

    def read(self, start: int, samples: int) -> Tensor:
        """A stretch of the waveform: (samples,) float32 at 16 kHz, channels averaged.

        Args:
            start, samples: at 16 kHz.

        Raises:
            BadRecording: the file cannot be decoded, ends before its header says, or holds NaN or infinity.
        """
        import soundfile

        rate = self.header.rate
        first = start * rate // SAMPLE_RATE
        count = math.ceil(samples * rate / SAMPLE_RATE)
        try:
            wav, _ = soundfile.read(self.path, frames=count, start=first, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise BadRecording(f"it cannot be decoded ({error})") from error
        if len(wav) < count:
            raise BadRecording(f"it ends {count - len(wav)} frames before its header says")
        if not np.isfinite(wav).all():
            raise BadRecording("it holds samples that are NaN or infinite")
        if wav.size and (loudest := float(np.abs(wav).max())) > LOUDEST:
            raise BadRecording(f"it holds samples of {loudest:.0e}, where those of speech are below 1")
        mono = wav.mean(1)
        if rate != SAMPLE_RATE:
            mono = _resample(mono, rate)
        return torch.from_numpy(np.ascontiguousarray(mono[:samples], dtype=np.float32))


@dataclass(frozen=True)
class Corpus:
    """The usable recordings in a fixed order, and what was left out.

    skipped: recordings that cannot be used, with the reason.
    repeated: recordings that were named a second time.
    left_out: parts of a corpus that are not for training.
    looks_held_out: sets that are used, and look like development or test sets, with the number of their recordings.
    """

    utterances: list[Utterance]
    skipped: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    looks_held_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Recordings that are dealt to batches, by their number."""
        return len(self.utterances)

    def name(self, number: int) -> str:
        """The recording's path under its source."""
        return self.utterances[number].name

    def utterance(self, number: int) -> Utterance:
        """The recording of this number."""
        return self.utterances[number]

    def samples(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Length at 16 kHz of each of these recordings: (len(numbers),) int64."""
        return np.array([self.utterances[number].samples for number in numbers], dtype=np.int64)

    @property
    def hours(self) -> float:
        """Length of all recordings."""
        return sum(utterance.samples for utterance in self.utterances) / SAMPLE_RATE / 3600

    @property
    def fingerprint(self) -> str:
        """Changes when a recording comes, goes, or changes its length or content; not when the folder moves.

        Of files above 64 KiB the size and four blocks of 4 KiB count, spread over the file: a change between those
        goes unnoticed. To hash every byte of LibriSpeech would take minutes at each launch.
        """
        digest = hashlib.sha256()
        for utterance in self.utterances:
            digest.update(f"{utterance.name}\t{utterance.samples}\t{utterance.header.content}\n".encode())
        return digest.hexdigest()


def find_corpus(
    sources: Sequence[str | Path], *, min_samples: int, cache: str | Path | None = None, for_training: bool = True
) -> Corpus:
    """Find the recordings of folders (LibriSpeech as published is one) and fairseq manifests (`.tsv`).

    Links are followed, and no recording is taken twice, by whatever paths it is named.

    Args:
        sources: folders, searched through and through, and manifests.
        min_samples: at 16 kHz; what is shorter is skipped (an encoder's receptive field).
        cache: file that keeps what headers said, so that only new or changed files are opened again.
        for_training: of a folder with LibriSpeech's parts take train-* alone, and warn of whatever else looks like a
            development or test set.

    Raises:
        DataError: a source is missing or malformed, or nothing in all of them can be used.
    """
    return measured(find_files(sources, for_training), min_samples=min_samples, cache=cache)


@dataclass(frozen=True)
class Found:
    """What sources name, before any file is opened.

    recordings: (source, name, path) of each, once; sorted by name in folders, in the manifest's order in manifests.
    unusable: what cannot even be named, with the reason.
    """

    sources: Sequence[str | Path]
    recordings: list[tuple[Path, str, Path]]
    unusable: dict[str, str]
    repeated: list[str]
    left_out: list[str]
    for_training: bool

    @property
    def named(self) -> str:
        """The sources, for a sentence."""
        return _named([str(source) for source in self.sources])


def find_files(sources: Sequence[str | Path], for_training: bool = True) -> Found:
    """The first part of `find_corpus`: names alone."""
    listings = [_list(Path(source), for_training) for source in sources]
    recordings, repeated = _without_repetitions(listings)
    recordings = _told_apart(recordings)
    unusable = {name: reason for listing in listings for name, reason in listing.unusable.items()}
    left_out = [part for listing in listings for part in listing.left_out]
    found = Found(sources, recordings, unusable, repeated, left_out, for_training)
    if not recordings and not unusable:
        endings = " ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(f"there is no audio file in {found.named}; known endings are {endings}")
    return found


def measured(
    found: Found,
    *,
    min_samples: int,
    cache: str | Path | None = None,
    hear: Callable[[Path, Header | str], None] | None = None,
) -> Corpus:
    """The second part of `find_corpus`: what the headers of all files say.

    Args:
        hear: is told of each header as soon as it is known.
    """
    headers = _headers([path for _, _, path in found.recordings], cache, hear or (lambda path, header: None))
    utterances: list[Utterance] = []
    skipped = dict(found.unusable)
    held_out: Counter[str] = Counter()
    set_of = functools.cache(_held_out_set)  # asked once for each folder
    for source, name, path in found.recordings:
        header = usable(headers[path], min_samples)
        if isinstance(header, str):
            skipped[name] = header
        else:
            utterances.append(Utterance(name, path, header))
            if found.for_training:
                folder = os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path)
                held_out.update(set_of(source, name.rpartition("/")[0], folder))
    corpus = Corpus(utterances, skipped, found.repeated, found.left_out, dict(held_out))
    _say(corpus)
    if not utterances:
        names = {name for _, name, _ in found.recordings}
        raise DataError(
            f"none of the {len(found.recordings) + len(skipped.keys() - names)} recordings in {found.named} can be "
            "used: " + _named([f"{name}: {reason}" for name, reason in skipped.items()], separator="; ")
        )
    return corpus


def usable(header: Header | str, min_samples: int) -> Header | str:
    """The header, or the sentence why its recording cannot be used."""
    if isinstance(header, Header) and header.samples < min_samples:
        return f"{header.samples} samples at 16 kHz are fewer than the {min_samples} that a frame needs"
    return header


@dataclass
class _Listing:
    """What a source names: (name, path) of its recordings, and what of it cannot or must not be used."""

    source: Path
    recordings: list[tuple[str, Path]] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def _list(source: Path, for_training: bool) -> _Listing:
    """The recordings of a source, sorted by name in folders, in its order in manifests."""
    if not _is_utf8(str(source)):
        raise DataError(f"the name of {printable(source)} is not UTF-8; rename it")
    if source.is_dir():
        found = _Listing(source)
        for path in files_below(source, found.unusable, found.left_out if for_training else None):
            name = path.relative_to(source).as_posix()
            if path.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            if _is_utf8(name):
                found.recordings.append((name, path))
            else:
                found.unusable[printable(name)] = "its name is not UTF-8; rename it"
        found.recordings.sort()
        found.left_out.sort()
        return found
    if source.suffix == ".tsv" and source.is_file():
        return _Listing(source, read_manifest(source))
    if source.exists():
        raise DataError(f"{source} is neither a folder of audio nor a manifest ending in .tsv")
    raise DataError(f"there is no folder or manifest {source}; check data.train, data.test or data.noise")


def files_below(
    folder: Path, unusable: dict[str, str] | None = None, left_out: list[str] | None = None
) -> Iterator[Path]:
    """Every file below a folder, links to folders followed, each folder entered once: links may lead in circles.

    Args:
        unusable: takes folders that cannot be read, with the reason.
        left_out: takes LibriSpeech's parts other than train-*, which are then not entered; None enters them.
    """
    entered: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)  # links last: folders are known by their own names
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if unusable is None:
                continue
            unusable[printable(here)] = f"the folder cannot be read ({error.strerror})"
            continue
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        folders = [entry for entry in entries if _is_folder(entry)]
        names = {entry.name for entry in folders}
        parts = any(TRAINING_PART.fullmatch(entry.name) for entry in folders)
        for entry in folders:
            if left_out is not None and parts and OTHER_PART.fullmatch(entry.name):
                left_out.append(printable(entry.path))
            elif entry.is_symlink():
                links.append(Path(entry.path))
            else:
                waiting.append(Path(entry.path))
        yield from (Path(entry.path) for entry in entries if entry.name not in names and not _is_device(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_device(entry: os.DirEntry[str]) -> bool:
    """What is neither a file nor a link that leads to one, or to nothing: a pipe would be waited for."""
    try:
        return not entry.is_file() and not entry.is_symlink()
    except OSError:
        return False


def _without_repetitions(listings: Iterable[_Listing]) -> tuple[list[tuple[Path, str, Path]], list[str]]:
    """(source, name, path) of each recording once, and the names of those that were named before."""
    folders: dict[str, str] = {}
    seen: set[str] = set()
    kept, repeated = [], []
    for listing in listings:
        for name, path in listing.recordings:
            folder, own_name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], own_name)
            if real in seen:
                repeated.append(name)
            else:
                seen.add(real)
                kept.append((listing.source, name, path))
    return kept, repeated


def _told_apart(recordings: list[tuple[Path, str, Path]]) -> list[tuple[Path, str, Path]]:
    """With the source's name in front of names that several sources have: what is said of one recording, that it was
    left out, must not stand for two."""
    names = Counter(name for _, name, _ in recordings)
    if len(names) == len(recordings):
        return recordings
    called: dict[Path, str] = {}  # also where a folder moves: names tell whether a run goes on with what it began with
    for source in dict.fromkeys(source for source, *_ in recordings):
        own = _own_name(source)
        called[source] = own if own not in called.values() else f"{own}-{len(called) + 1}"
    return [
        (source, f"{called[source]}/{name}" if names[name] > 1 else name, path) for source, name, path in recordings
    ]


def _own_name(source: Path) -> str:
    return source.stem if source.suffix == ".tsv" else source.resolve().name


def _held_out_set(source: Path, inside: str, folder: str) -> list[str]:
    """The development or test set that a folder's recordings belong to, by its names or the manifest's, if any.

    Args:
        inside: the folder as the source names it.
        folder: where it is; it may be a link, or that of recordings which are links.
    """
    named = [_own_name(source), *filter(None, inside.split("/"))]
    for depth, part in enumerate(named):
        if _sounds_held_out(part):
            return ["/".join(named[: depth + 1])]
    place = Path(folder).resolve()
    if known := [part for part in place.parts if KNOWN_TEST_SETS.fullmatch(part)]:
        return [f"{known[-1]} ({source.name})"]
    if place.is_relative_to(source.resolve()):
        return []
    own = place.parts[-len(named) :]  # a manifest's root, or what is behind a link, and folders in it
    return [f"{part} ({source.name})" for part in own if _sounds_held_out(part)][:1]


def _sounds_held_out(part: str) -> bool:
    words = set(re.split(r"[^a-z]+", part.lower()))
    return "train" not in words and bool(words & HELD_OUT_WORDS or HELD_OUT.search(part.lower()))


def printable(name: object) -> str:
    """A file's name as it can be shown: bytes that are not UTF-8 are escaped."""
    return as_utf8(str(name))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_manifest(manifest: Path) -> list[tuple[str, Path]]:
    """fairseq's manifest: the root folder, then a line `path<TAB>frames` for each recording.

    The number of frames is checked to be one and otherwise left to the file's own header.
    """
    lines = read_lines(manifest)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or "\t" in lines[0] or "\0" in lines[0]:
        raise DataError(f"the first line of the manifest {manifest} must be the root folder of its paths")
    root = manifest.parent / lines[0]
    listed = []
    for number, line in enumerate(lines[1:], start=2):
        name, _, frames = line.partition("\t")
        if not name or "\0" in name or not frames.strip().isdecimal():
            raise DataError(f"line {number} of the manifest {manifest} is '{line}'; it must be path<TAB>frames")
        listed.append((name, root / name))
    return listed


def lines_beside(manifest: Path, endings: Sequence[str], what: str) -> tuple[Path, list[tuple[Path, str]]]:
    """What fairseq keeps beside a manifest: a file of the same name and another ending, one line per recording.

    Args:
        endings: of which the first that is there is read, such as ".wrd".
        what: it is called in messages.

    Returns:
        The file, and each recording's path with its line.

    Raises:
        DataError: there is no such file, it cannot be read, or has another number of lines than the manifest.
    """
    file = next((manifest.with_suffix(end) for end in endings if manifest.with_suffix(end).is_file()), None)
    if file is None:
        raise DataError(f"there is no {' or '.join(endings)} beside {manifest}, which {what} are read from")
    listed, lines = read_manifest(manifest), read_lines(file)
    while len(lines) > len(listed) and not lines[-1].strip():
        lines.pop()
    if len(listed) != len(lines):
        raise DataError(f"{file} has {len(lines)} lines and {manifest} lists {len(listed)} recordings")
    return file, [(path, line) for (_, path), line in zip(listed, lines, strict=True)]


def read_lines(file: Path) -> list[str]:
    """The lines of a text file about recordings, a byte order mark left out; raises DataError where it cannot be read.

    Lines end with a line feed and nothing else: `splitlines` would end them at U+2028 and its like, too, which occur in
    texts from the web.
    """
    try:
        lines = plain_file(file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return lines if lines[-1] else lines[:-1]


def _headers(
    paths: Iterable[Path], cache: str | Path | None, hear: Callable[[Path, Header | str], None]
) -> dict[Path, Header | str]:
    """The header of each file, or the sentence why it has none; files are opened in parallel."""
    known = _read_cache(Path(cache)) if cache is not None else {}
    stamps = {path: _stamp(path) for path in paths}
    headers: dict[Path, Header | str] = {}
    fresh = []
    for path, stamp in stamps.items():
        if stamp is not None and (str(path), *stamp) not in known:
            fresh.append(path)
            continue
        headers[path] = "there is no such file" if stamp is None else known[str(path), *stamp]
        hear(path, headers[path])
    for path, header in zip(fresh, read_headers(fresh), strict=True):
        headers[path] = header
        hear(path, header)
    if cache is not None and fresh:
        _write_cache(Path(cache), stamps, headers)
    return headers


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Size and times of change, that of the entry included, which nobody sets: what keeps them is the same."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that no file can have is that of none
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_headers(paths: Sequence[Path]) -> Iterator[Header | str]:
    """The header of each file, or the sentence why it has none. Threads take pieces of the list in turn; they are
    daemons, so that a process may end in the middle of a corpus."""
    pieces = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]
    if len(pieces) < 2:
        yield from map(_read_header, paths)
        return
    with ThreadPool(min(len(pieces), MOST_THREADS, (os.cpu_count() or 1) + SPARE_THREADS)) as pool:
        yield from chain.from_iterable(pool.imap(lambda piece: [_read_header(path) for path in piece], pieces))


def _read_header(path: Path) -> Header | str:
    import soundfile

    try:
        size = path.stat().st_size
        if not size:
            return "the file is empty"
        info = soundfile.info(str(path))
        content = _content(path, size)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    if info.frames > MOST_FRAMES_A_BYTE * size:
        return "its header does not say how long it is, as of a stream that was not finished; write the file anew"
    if info.samplerate not in RATES:
        return f"its header says {info.samplerate} Hz, which is no rate of speech ({RATES[0]} to {RATES[-1]} Hz)"
    return Header(info.frames, info.samplerate, info.channels, content)


def _content(path: Path, size: int) -> str:
    """A hash of the file, or of blocks of it, the first and the last among them, where it is long."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=12)
    with open(path, "rb") as file:
        if size <= HASHED_WHOLE:
            digest.update(file.read())
        else:
            for number in range(HASHED_BLOCKS):
                file.seek(number * (size - HASHED_BLOCK) // (HASHED_BLOCKS - 1))
                digest.update(file.read(HASHED_BLOCK))
    return digest.hexdigest()


def _read_cache(cache: Path) -> dict[tuple[str, int, int, int], Header | str]:
    """What an earlier launch learned; a cache of another make is as good as none."""
    try:
        rows = read_json(cache)
        return {
            (path, *map(int, stamp)): found if isinstance(found, str) else _header(*found)
            for path, *stamp, found in rows
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        log.warning("the cache of durations %s cannot be used (%s); the headers are read again", cache, error)
        return {}


def known_contents(cache: str | Path) -> frozenset[str]:
    """Hashes of the recordings whose headers are kept there; none where there is no such file."""
    return frozenset(found.content for found in _read_cache(Path(cache)).values() if isinstance(found, Header))


def _header(frames: int, rate: int, channels: int, content: str) -> Header:
    """Of a cache, which anybody may have written."""
    if not (frames >= 0 and int(rate) in RATES and channels >= 1):
        raise ValueError("a header that cannot be")
    return Header(int(frames), int(rate), int(channels), str(content))


def _write_cache(
    cache: Path, stamps: dict[Path, tuple[int, int, int] | None], headers: dict[Path, Header | str]
) -> None:
    rows = [
        [str(path), *stamp, found if isinstance(found := headers[path], str) else list(vars(found).values())]
        for path, stamp in stamps.items()
        if stamp is not None
    ]
    write_text(cache, json.dumps(rows))


def _say(corpus: Corpus) -> None:
    """Once per run: what there is, what was left out and what will be converted on reading."""
    log.info("%d recordings, %.2f hours", len(corpus.utterances), corpus.hours)
    if corpus.skipped:
        reasons = [f"{name} ({reason})" for name, reason in corpus.skipped.items()]
        log.warning("%d recordings are skipped: %s", len(corpus.skipped), _named(reasons))

    if corpus.repeated:
        names = _named(corpus.repeated)
        log.warning("%d recordings are named more than once, and used once: %s", len(corpus.repeated), names)
    if corpus.left_out:
        log.warning(
            "%s: left out, since a folder of LibriSpeech's parts means those of training; name other parts themselves "
            "to use them",
            _named(corpus.left_out),
        )
    if corpus.looks_held_out:
        sets = _named([f"{name} ({count} recordings)" for name, count in corpus.looks_held_out.items()])
        log.warning("TRAINING ON WHAT LOOKS LIKE DEVELOPMENT OR TEST DATA: %s. Scores on it would not be valid", sets)

    def count(condition: Callable[[Header], bool]) -> int:
        return sum(condition(utterance.header) for utterance in corpus.utterances)

    if mixed := count(lambda header: header.channels > 1):
        log.warning("%d recordings have several channels, which are averaged", mixed)
    if resampled := count(lambda header: header.rate != SAMPLE_RATE):
        log.warning("%d recordings have another sample rate than 16 kHz and are resampled", resampled)


def _named(things: Sequence[str], *, separator: str = ", ") -> str:
    more = f"{separator}and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return separator.join(things[:SHOWN]) + more


def _resample(wav: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    common = math.gcd(rate, SAMPLE_RATE)
    return resample_poly(wav, SAMPLE_RATE // common, rate // common)
