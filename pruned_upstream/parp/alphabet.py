"""What a recogniser can write: letters, the characters of a language, or phones; label 0 is CTC's blank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..parsing import require_one_of

BLANK = 0
BOUNDARY = "|"  # between words

# 26 letters, the apostrophe and the word boundary, the commonest first (fairseq's dict.ltr.txt)
LETTERS = (BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
KINDS = ("letters", "characters", "phones")


@dataclass(frozen=True)
class Alphabet:
    """The symbols of a kind of transcript; symbol i has the label i + 1.

    kind: "letters" of English, "characters" as the training transcripts have them, or "phones", which stand between
        spaces as words do.
    """

    kind: str
    symbols: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, transcripts: Iterable[str]) -> Alphabet:
        """The alphabet of transcripts; that of `letters` is given.

        Raises:
            ConfigError: no such kind.
        """
        require_one_of("data.labels", kind, KINDS)
        if kind == "letters":
            return cls(kind, LETTERS)
        return cls(kind, tuple(sorted({symbol for text in transcripts for symbol in spell(kind, text)})))

    @property
    def classes(self) -> int:
        """Outputs of a CTC head, the blank included."""
        return len(self.symbols) + 1

    def unknown(self, text: str) -> set[str]:
        """Symbols of a transcript that the alphabet lacks."""
        return set(spell(self.kind, text)) - set(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Labels of a transcript without unknown symbols."""
        numbers = {symbol: label for label, symbol in enumerate(self.symbols, start=1)}
        return [numbers[symbol] for symbol in spell(self.kind, text)]

    def write(self, labels: Sequence[int]) -> str:
        """The transcript that labels (no blanks) spell."""
        symbols = [self.symbols[label - 1] for label in labels]
        if self.kind == "phones":
            return " ".join(symbols)
        return " ".join("".join(symbols).replace(BOUNDARY, " ").split())


def spell(kind: str, text: str) -> list[str]:
    """The symbols of a transcript: phones as they stand, or characters, with a boundary between words."""
    return text.split() if kind == "phones" else list(BOUNDARY.join(text.split()))


def frames_needed(labels: Sequence[int]) -> int:
    """The fewest frames on which CTC can write labels: a blank must come between two equal ones."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))
