"""What labels stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.errors import ConfigError
from pruned_upstream.parp.alphabet import BLANK, LETTERS, Alphabet, frames_needed

LETTER_ALPHABET = Alphabet.of("letters", [])


def test_letters_are_fairseqs() -> None:
    assert len(LETTERS) == len(set(LETTERS)) == 28  # 26 letters, the apostrophe and the word boundary
    assert LETTER_ALPHABET.classes == 29
    assert LETTER_ALPHABET.encode("IT'S A") == [LETTERS.index(c) + 1 for c in ("I", "T", "'", "S", "|", "A")]


@given(st.lists(st.text("ABCXYZ'", min_size=1, max_size=6), min_size=1, max_size=5))
def test_text_survives(words: list[str]) -> None:
    text = " ".join(words)
    labels = LETTER_ALPHABET.encode(text)
    assert BLANK not in labels
    assert LETTER_ALPHABET.write(labels) == text


def test_characters_and_phones_come_from_the_transcripts() -> None:
    characters = Alphabet.of("characters", ["schön ja", "ñu"])
    assert characters.symbols == tuple(sorted(set("schönjañu|")))
    assert characters.write(characters.encode("ja schön")) == "ja schön"
    phones = Alphabet.of("phones", ["t aI", "aI tS"])
    assert phones.symbols == ("aI", "t", "tS")
    assert phones.write(phones.encode("tS aI t")) == "tS aI t"
    assert phones.unknown("t o") == {"o"}


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="data.labels is 'syllables'"):
        Alphabet.of("syllables", [])


def test_equal_neighbours_need_a_blank_between_them() -> None:
    assert frames_needed(LETTER_ALPHABET.encode("ALL BELLS")) == 9 + 2
    assert frames_needed([]) == 0
