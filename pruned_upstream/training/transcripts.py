"""What is said in the recordings: transcripts as LibriSpeech, Libri-light and fairseq lay them out.

| where | labels | form |
|---|---|---|
| `*.trans.txt` in a folder | letters, characters | lines `ID TEXT`, as LibriSpeech and Libri-light have them |
| `*.phn.txt` in a folder | phones | lines `ID PHONE PHONE ...` |
| NAME.wrd beside NAME.tsv | letters, characters | a line of words for each line of the manifest (fairseq) |
| NAME.ltr beside NAME.tsv | letters, characters | the same letter by letter, where there is no NAME.wrd |
| NAME.phn beside NAME.tsv | phones | a line of phones for each line of the manifest |

An ID is a file's name without its ending; its file lies beside the transcript, however deep in the folder both are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from ..model.config import SAMPLE_RATE, EncoderConfig
from ..parp.alphabet import BOUNDARY, Alphabet, frames_needed
from .corpus import Corpus, Utterance, files_below, find_corpus, lines_beside, read_lines

log = logging.getLogger(__name__)

IN_FOLDERS = {"letters": "*.trans.txt", "characters": "*.trans.txt", "phones": "*.phn.txt"}
BESIDE_MANIFESTS = {"letters": (".wrd", ".ltr"), "characters": (".wrd", ".ltr"), "phones": (".phn",)}


@dataclass(frozen=True)
class Transcribed:
    """Recordings and what is said in each, in the same order."""

    corpus: Corpus
    texts: list[str]

    def without(self, obstacles: Sequence[str]) -> Transcribed:
        """Those without an obstacle; the others are skipped for it."""
        entries = list(zip(self.corpus.utterances, self.texts, obstacles, strict=True))
        skipped = {utterance.name: obstacle for utterance, _, obstacle in entries if obstacle}
        kept = [(utterance, text) for utterance, text, obstacle in entries if not obstacle]
        utterances, skipped = [utterance for utterance, _ in kept], {**self.corpus.skipped, **skipped}
        corpus = replace(self.corpus, utterances=utterances, skipped=skipped)
        return Transcribed(corpus, [text for _, text in kept])


def find_transcribed(
    sources: Sequence[str | Path],
    labels: str,
    *,
    min_samples: int,
    cache: str | Path | None = None,
    for_training: bool = True,
) -> Transcribed:
    """The recordings of folders and manifests that have a transcript.

    Args:
        labels: kind of alphabet; transcripts of the kind "letters" are brought to upper case.
        min_samples, cache, for_training: as `find_corpus`.

    Raises:
        DataError: a source or its transcripts are missing or malformed, or two transcripts of a recording differ.
    """
    corpus = find_corpus(sources, min_samples=min_samples, cache=cache, for_training=for_training)
    texts: dict[Path, str] = {}
    for source in sources:
        for path, text in _read(Path(source), labels, for_training):
            if texts.setdefault(path, text) != text:
                raise DataError(f"{path} has two transcripts: '{texts[path]}' and '{text}'; remove one")
    found = Transcribed(corpus, [texts.get(_without_suffix(utterance.path), "") for utterance in corpus.utterances])
    kept = found.without(["" if text else "it has no transcript" for text in found.texts])
    if not kept.texts:
        raise DataError(
            f"none of the recordings in {', '.join(map(str, sources))} has a transcript; {labels} are read from "
            f"{IN_FOLDERS[labels]} in a folder, from {' or '.join(BESIDE_MANIFESTS[labels])} beside a manifest"
        )
    return kept


def trainable(found: Transcribed, alphabet: Alphabet, config: EncoderConfig, *, max_seconds: float) -> Transcribed:
    """What CTC can learn from: not cropped, spelled by the alphabet, and with frames enough for its labels.

    Raises:
        DataError: nothing is left.
    """
    pairs = zip(found.corpus.utterances, found.texts, strict=True)
    obstacles = [_obstacle(utterance, text, alphabet, config, max_seconds) for utterance, text in pairs]
    kept = found.without(obstacles)
    if not kept.texts:
        raise DataError(
            f"no recording can be learned from; of {found.corpus.utterances[0].name}, for instance, {obstacles[0]}"
        )
    if len(kept.texts) < len(found.texts):
        first = next(reason for reason in obstacles if reason)
        log.warning("%d recordings are not learned from (%s)", len(found.texts) - len(kept.texts), first)
    return kept


def _obstacle(utterance: Utterance, text: str, alphabet: Alphabet, config: EncoderConfig, max_seconds: float) -> str:
    """Why a recording cannot be learned from; empty where it can."""
    if utterance.samples > max_seconds * SAMPLE_RATE:
        seconds = utterance.samples / SAMPLE_RATE
        return f"its {seconds:.1f} s are more than data.max_seconds, and a crop would not fit the transcript"
    if unknown := alphabet.unknown(text):
        return f"its transcript has symbols that the alphabet lacks: {' '.join(sorted(unknown))}"
    frames, needed = config.frames(utterance.samples), frames_needed(alphabet.encode(text))
    if frames < needed:
        return f"its {frames} frames are fewer than the {needed} that its transcript needs"
    return ""


def _read(source: Path, labels: str, for_training: bool) -> Iterator[tuple[Path, str]]:
    """Transcripts, each with the path of its recording without its suffix."""
    if source.is_dir():
        files = files_below(source, left_out=[] if for_training else None)  # the folders that recordings are taken from
        for file in sorted(path for path in files if path.match(IN_FOLDERS[labels])):
            for line in read_lines(file):
                name, *text = line.split(maxsplit=1)[:2] or [""]
                if name:
                    yield file.parent / name, _normal(" ".join(text), labels)
    else:
        yield from ((path, _normal(text, labels)) for path, text in _beside_manifest(source, labels))


def _beside_manifest(manifest: Path, labels: str) -> Iterator[tuple[Path, str]]:
    file, lines = lines_beside(manifest, BESIDE_MANIFESTS[labels], labels)
    spelled = file.suffix == ".ltr"
    for path, line in lines:
        yield _without_suffix(path), "".join(line.split()).replace(BOUNDARY, " ") if spelled else line


def _normal(text: str, labels: str) -> str:
    text = " ".join(text.split())
    return text.upper() if labels == "letters" else text


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("")
