"""Audio SNIPS' sentences and slots, as s3prl's tokenizer takes them apart (downstream/ctc/text.py).

A line of all.iob.snips.txt is `RECORDING BOS word ... EOS<tab>O slot ... intent`: a slot per word, by blanks. The first
line of slots.txt is `O`, which is no slot.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from ...errors import DataError
from ...parsing import read_lines, read_text, shown

SENTENCES, SLOTS = "all.iob.snips.txt", "slots.txt"
OUTSIDE = "O"
SPEAKERS: Mapping[str, tuple[str, ...]] = {
    "train": ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"),
    "valid": ("Aditi", "Amy", "Geraint", "Nicole"),
    "test": ("Brian", "Emma", "Raveena", "Russell"),
}
"""Voices that each split is made of (s3prl's downstream/ctc/snips.yaml). The folders hold all sixteen: s3prl's
preprocess/snips_prepare_data.sh looks for one of Salli's in `valid`."""


def recordings(folder: Path, speakers: Container[str] | None) -> list[Path]:
    """A split's recordings by these voices, or by all, sorted."""
    wavs = sorted(folder.rglob("[!.]*.wav"))
    return [wav for wav in wavs if speakers is None or wav.stem.partition("-")[0] in speakers]


def read_sentences(path: Path) -> dict[str, str]:
    """Recording -> "words<tab>slots".

    Raises:
        DataError: a line has no words, no slots or not as many of both, or a recording has two sentences.
    """
    sentences: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        recording, _, sentence = line.strip().partition(" ")
        words, tab, slots = sentence.partition("\t")
        if not tab or "\t" in slots:
            raise DataError(f"{path}, line {number}: {shown(line)} is no recording, words, one tab and slots")
        counts = [len(part.split(" ")) for part in (words, slots)]
        if counts[0] != counts[1] or counts[0] < 3:
            raise DataError(
                f"{path}, line {number}: {shown(recording)} has {counts[0]} words and {counts[1]} slots, BOS, EOS and "
                "the intent included"
            )
        if sentences.setdefault(recording, sentence) != sentence:
            raise DataError(f"{path}, line {number}: {shown(recording)} has a second, another sentence")
    if not sentences:
        raise DataError(f"{path} is empty")
    return sentences


def read_slots(path: Path) -> frozenset[str]:
    """The slots that the task's head has symbols for.

    Raises:
        DataError: there is none, or the first line is not `O`.
    """
    first, *slots = read_text(path).split("\n")
    if first != OUTSIDE or not any(slots):
        raise DataError(
            f"{path} is {'empty' if not first else 'no list of slots'}: its first line is {OUTSIDE}, then comes a slot "
            "per line"
        )
    return frozenset(slots)


def require_slots(sentences: Mapping[str, str], slots: frozenset[str], where: Path) -> None:
    """Raise DataError if a sentence has a slot that is not in the list."""
    used = {slot for sentence in sentences.values() for slot in sentence.partition("\t")[2].split(" ")[1:-1]}
    if unknown := sorted(used - slots - {OUTSIDE}):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(f"{where} lacks the slot {shown(unknown[0])}{more}, which {SENTENCES} has")
