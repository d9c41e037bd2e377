"""From scores to text, with and without a language model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from arpa import ARPA

from pruned_upstream.errors import ConfigError
from pruned_upstream.parp.alphabet import Alphabet
from pruned_upstream.parp.decoding import DecodingSettings, GreedyDecoder, error_rates, make_decoder

ALPHABET = Alphabet.of("letters", [])


def scores(path: str, *, sure: float = 0.9) -> torch.Tensor:
    """(T, classes) log probabilities in which each frame is `sure` of a symbol; "_" is the blank."""
    rest = (1 - sure) / (ALPHABET.classes - 1)
    table = torch.full((len(path), ALPHABET.classes), math.log(rest))
    for frame, symbol in enumerate(path):
        label = 0 if symbol == "_" else ALPHABET.symbols.index(symbol) + 1
        table[frame, label] = math.log(sure)
    return table


@pytest.mark.parametrize(
    ("path", "text"),
    [("__CC_AAT_|D_OG__", "CAT DOG"), ("BEL_LL", "BELL"), ("____", ""), ("|A|_|B|", "A B"), ("AAAA", "A")],
)
def test_greedy(path: str, text: str) -> None:
    assert GreedyDecoder(ALPHABET)(scores(path)) == text


def test_error_rates_by_hand() -> None:
    rates = error_rates("letters", ["A CAT SAT", "DOG"], ["A CAR SAT", ""])
    assert rates["wer"] == pytest.approx(2 / 4)
    assert rates["cer"] == pytest.approx((1 + 3) / 12)
    assert error_rates("phones", ["t aI m"], ["t aI"]) == {"per": pytest.approx(1 / 3)}


@pytest.fixture
def language(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "words.txt").write_text("CAT C A T |\nCAR\nnaïve\n")
    return {"lm": str(tmp_path / "lm.arpa"), "words": str(tmp_path / "words.txt")}


def test_a_word_list_from_an_editor(language, tmp_path: Path) -> None:
    """A byte order mark ahead of the first word, line ends of Windows."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfCAT\r\nCAR\r\n")
    assert make_decoder(ALPHABET, DecodingSettings(**language, lm_weight=0.0))(scores("CAT|CAR|")) == "CAT CAR"


def test_a_language_model_decides_between_words(language) -> None:
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    heard = scores("CA_T|CAR")
    heard[3] = scores("R", sure=0.55)[0]
    heard[3, ALPHABET.symbols.index("T") + 1] = math.log(0.4)  # acoustics say CAR a little louder
    assert GreedyDecoder(ALPHABET)(heard) == "CAR CAR"
    by_words = make_decoder(ALPHABET, DecodingSettings(**language, lm_weight=0.0))
    assert by_words(heard) == "CAR CAR"
    by_language = make_decoder(ALPHABET, DecodingSettings(**language, lm_weight=1.0))
    assert by_language(heard) == "CAT CAR"
    assert by_language(scores("CA_R|CARX")) == "CAR CAR"  # no other words are written


def test_what_decoding_lacks_is_named(language, tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    with pytest.raises(ConfigError, match="go together"):
        DecodingSettings(lm="lm.arpa").check()
    with pytest.raises(ConfigError, match="decoding.beam is 0"):
        DecodingSettings(beam=0).check()
    with pytest.raises(ConfigError, match="no language model"):
        make_decoder(ALPHABET, DecodingSettings(lm=str(tmp_path / "no"), words=language["words"]))
    with pytest.raises(ConfigError, match="KenLM cannot read the language model"):
        make_decoder(ALPHABET, DecodingSettings(lm=language["words"], words=language["words"]))
    with pytest.raises(ConfigError, match="check decoding.words"):
        make_decoder(ALPHABET, DecodingSettings(lm=language["lm"], words=str(tmp_path / "no")))
    with pytest.raises(ConfigError, match="phones are decoded greedily"):
        make_decoder(Alphabet.of("phones", ["a"]), DecodingSettings(**language))
    (tmp_path / "foreign.txt").write_text("ñu\n")
    with pytest.raises(ConfigError, match="no word in"):
        make_decoder(ALPHABET, DecodingSettings(lm=language["lm"], words=str(tmp_path / "foreign.txt")))


def test_without_the_library_the_extra_is_named(language, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(ConfigError, match=r"pip install 'pruned_upstream\[lm\]'"):
        make_decoder(ALPHABET, DecodingSettings(**language))
