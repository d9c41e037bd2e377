"""Output symbols of PR, SF and ASR.

The orders are those of s3prl's files (downstream/ctc/vocab/phoneme.txt, character.txt; downstream/asr/char.dict): a
symbol's place is its class, so checkpoints trained with either fit.
"""

from __future__ import annotations

import string
from pathlib import Path

from ...files import write_text

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
_LETTERS_BY_FREQUENCY = "|ETAONIHSRDLUMCWFGYPBVK'XJQZ"

PHONEMES = (
    "SIL",
    "SPN",
    *sorted([f"{vowel}{stress}" for vowel in _VOWELS.split() for stress in "012"] + _CONSONANTS.split()),
)
"""ARPAbet with stress: 69 phonemes, silence and spoken noise."""

CHARACTERS = (" ", *string.ascii_uppercase, "'")
"""Slot filling's letters; the slots' begin and end marks come after them."""

ASR_CHARACTERS = tuple(_LETTERS_BY_FREQUENCY)
"""Letters and the word boundary `|`, by falling frequency in LibriSpeech."""


def write_phonemes(path: Path) -> Path:
    """Write the phonemes of PR, one line per phoneme."""
    return _write_lines(path, PHONEMES)


def write_characters(path: Path) -> Path:
    """Write the characters of ASR, one line per character."""
    return _write_lines(path, CHARACTERS)


def write_asr_dictionary(path: Path) -> Path:
    """fairseq's dictionary format: one symbol and its count per line; nothing reads the count."""
    return _write_lines(path, tuple(f"{character} 1" for character in ASR_CHARACTERS))


def _write_lines(path: Path, lines: tuple[str, ...]) -> Path:
    write_text(path, "\n".join(lines))  # a last newline would be one more symbol
    return path
