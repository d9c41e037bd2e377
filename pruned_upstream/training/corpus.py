"""The recordings of a run: found in folders or fairseq manifests, measured by their headers, read as 16 kHz mono."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import write_text

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph"}
HEADERS_FILE = "headers.json"  # of a run, what `find_corpus` keeps there
SHOWN = 5  # files named in a message before "and so many more"


class BadRecording(Exception):
    """One recording cannot be used; the sentence says why. It is left out, and the run goes on."""


@dataclass(frozen=True)
class Header:
    """What the head of an audio file says."""

    frames: int
    rate: int
    channels: int

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
        mono = wav.mean(1)
        if rate != SAMPLE_RATE:
            mono = _resample(mono, rate)
        return torch.from_numpy(np.ascontiguousarray(mono[:samples], dtype=np.float32))


@dataclass(frozen=True)
class Corpus:
    """The usable recordings in a fixed order, and the reason for each that was left out."""

    utterances: list[Utterance]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return sum(utterance.samples for utterance in self.utterances) / SAMPLE_RATE / 3600

    @property
    def fingerprint(self) -> str:
        """Changes when a recording comes, goes or changes its length; not when the folder moves."""
        digest = hashlib.sha256()
        for utterance in self.utterances:
            digest.update(f"{utterance.name}\t{utterance.samples}\n".encode())
        return digest.hexdigest()


def find_corpus(sources: Sequence[str | Path], *, min_samples: int, cache: str | Path | None = None) -> Corpus:
    """Find the recordings of folders (LibriSpeech as published is one) and fairseq manifests (`.tsv`).

    Args:
        sources: folders, searched through and through, and manifests.
        min_samples: at 16 kHz; what is shorter is skipped (an encoder's receptive field).
        cache: file that keeps what headers said, so that only new or changed files are opened again.

    Raises:
        DataError: a source is missing or malformed, or nothing in all of them can be used.
    """
    listed = [entry for source in sources for entry in _list(Path(source))]
    if not listed:
        raise DataError(
            f"there is no audio file in {_named([str(source) for source in sources])}; "
            f"known endings are {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    headers = _headers([path for _, path in listed], cache)
    utterances: list[Utterance] = []
    skipped: dict[str, str] = {}
    for name, path in listed:
        header = headers[path]
        if isinstance(header, str):
            skipped[name] = header
        elif header.samples < min_samples:
            skipped[name] = f"{header.samples} samples at 16 kHz are fewer than the {min_samples} that a frame needs"
        else:
            utterances.append(Utterance(name, path, header))
    corpus = Corpus(utterances, skipped)
    _say(corpus)
    if not utterances:
        raise DataError(
            f"none of the {len(listed)} recordings in {_named([str(source) for source in sources])} can be used: "
            + _named([f"{name}: {reason}" for name, reason in skipped.items()], separator="; ")
        )
    return corpus


def _list(source: Path) -> list[tuple[str, Path]]:
    """(name, path) of every recording that a source lists, sorted by name in folders, in its order in manifests."""
    if source.is_dir():
        found = (path for path in source.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
        return sorted((path.relative_to(source).as_posix(), path) for path in found)
    if source.suffix == ".tsv" and source.is_file():
        return read_manifest(source)
    if source.exists():
        raise DataError(f"{source} is neither a folder of audio nor a manifest ending in .tsv")
    raise DataError(f"there is no folder or manifest {source}; check data.train")


def read_manifest(manifest: Path) -> list[tuple[str, Path]]:
    """fairseq's manifest: the root folder, then a line `path<TAB>frames` a recording.

    The number of frames is checked to be one and otherwise left to the file's own header.
    """
    lines = read_lines(manifest)
    if not lines or "\t" in lines[0]:
        raise DataError(f"the first line of the manifest {manifest} must be the root folder of its paths")
    root = manifest.parent / lines[0]
    listed = []
    for number, line in enumerate(lines[1:], start=2):
        name, _, frames = line.partition("\t")
        if not name or not frames.strip().isdigit():
            raise DataError(f"line {number} of the manifest {manifest} is '{line}'; it must be path<TAB>frames")
        listed.append((name, root / name))
    return listed


def lines_beside(manifest: Path, endings: Sequence[str], what: str) -> tuple[Path, list[tuple[Path, str]]]:
    """What fairseq keeps beside a manifest: a file of the same name and another ending, a line a recording.

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
    if len(listed) != len(lines):
        raise DataError(f"{file} has {len(lines)} lines and {manifest} lists {len(listed)} recordings")
    return file, [(path, line) for (_, path), line in zip(listed, lines, strict=True)]


def read_lines(file: Path) -> list[str]:
    """The lines of a text file about recordings. Raises DataError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _headers(paths: Iterable[Path], cache: str | Path | None) -> dict[Path, Header | str]:
    """The header of each file, or the sentence why it has none; files are opened in parallel."""
    known = _read_cache(Path(cache)) if cache is not None else {}
    stamps = {path: _stamp(path) for path in paths}
    fresh = [path for path, stamp in stamps.items() if stamp is not None and (str(path), *stamp) not in known]
    with ThreadPoolExecutor() as pool:
        read = dict(zip(fresh, pool.map(_read_header, fresh), strict=True))
    headers: dict[Path, Header | str] = {}
    for path, stamp in stamps.items():
        if stamp is None:
            headers[path] = "there is no such file"
        else:
            headers[path] = read[path] if path in read else known[str(path), *stamp]
    if cache is not None and fresh:
        _write_cache(Path(cache), stamps, headers)
    return headers


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change: a file that keeps both keeps its header."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read_header(path: Path) -> Header | str:
    import soundfile

    if not path.stat().st_size:
        return "the file is empty"
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        return f"it cannot be read ({error})"
    return Header(info.frames, info.samplerate, info.channels)


def _read_cache(cache: Path) -> dict[tuple[str, int, int], Header | str]:
    """What an earlier launch learned; a cache of another make is as good as none."""
    try:
        rows = json.loads(cache.read_text(encoding="utf-8"))
        return {
            (path, size, changed): found if isinstance(found, str) else Header(*found)
            for path, size, changed, found in rows
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        log.warning("the cache of durations %s cannot be used (%s); the headers are read again", cache, error)
        return {}


def _write_cache(cache: Path, stamps: dict[Path, tuple[int, int] | None], headers: dict[Path, Header | str]) -> None:
    rows = [
        [str(path), *stamp, found if isinstance(found, str) else list(astuple(found))]
        for (path, stamp), found in zip(stamps.items(), headers.values(), strict=True)
        if stamp is not None
    ]
    write_text(cache, json.dumps(rows))


def _say(corpus: Corpus) -> None:
    """Once a run: what there is, what was left out and what will be converted on reading."""
    log.info("%d recordings, %.2f hours", len(corpus.utterances), corpus.hours)
    if corpus.skipped:
        reasons = [f"{name} ({reason})" for name, reason in corpus.skipped.items()]
        log.warning("%d recordings are skipped: %s", len(corpus.skipped), _named(reasons))

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
