"""From frame scores to text: the best path, or a beam with words and a KenLM language model; and how wrong it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..errors import ConfigError
from ..parsing import require
from .alphabet import BLANK, BOUNDARY, Alphabet

IMPOSSIBLE = -1e4  # log probability
UNKNOWN = "<unk>"  # KenLM's name for every other word


@dataclass(frozen=True)
class DecodingSettings:
    """Greedy where no language model is given. Weights: fairseq's examples/wav2vec/README.md, 10-hour models."""

    lm: str | None = None  # KenLM file, .arpa or binary
    words: str | None = None  # the words that may be written, the first of each line; needed with `lm`
    beam: int = 50  # hypotheses that are kept
    lm_weight: float = 2.0  # of the language model's log probability
    word_score: float = -1.0  # added for every word

    def check(self) -> None:
        """Raises ConfigError, which names the key, when a value is impossible."""
        require(self.beam >= 1, "decoding.beam", self.beam, "be at least 1")
        if (self.lm is None) != (self.words is None):
            raise ConfigError("decoding.lm and decoding.words go together; give both, or neither for greedy decoding")
        for key, path in (("lm", self.lm), ("words", self.words)):
            if path is not None and Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
                raise ConfigError(f"decoding.{key} is {path}, which is no file; name one")


class Decoder(Protocol):
    """From scores to text."""

    def __call__(self, scores: Tensor) -> str:
        """The text of (T, classes) log probabilities."""


class GreedyDecoder:
    """The likeliest label of each frame, repetitions and blanks left out."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet

    def __call__(self, scores: Tensor) -> str:
        """The text of (T, classes) log probabilities."""
        path = torch.unique_consecutive(scores.argmax(-1))
        return self.alphabet.write(path[path != BLANK].tolist())


class BeamDecoder:
    """flashlight-text's beam search through a tree of words, scored by a KenLM model.

    Raises:
        ConfigError: flashlight-text is not installed, a file is missing or damaged, or no word can be spelled.
    """

    def __init__(self, alphabet: Alphabet, settings: DecodingSettings) -> None:
        try:
            from flashlight.lib.text import decoder, dictionary
            from flashlight.lib.text.decoder.kenlm import KenLM
        except ImportError as error:
            raise ConfigError(
                "decoding with a language model needs flashlight-text; pip install 'pruned_upstream[lm]', or leave out "
                "decoding.lm"
            ) from error
        if alphabet.kind == "phones":
            raise ConfigError("decoding.lm is for words; phones are decoded greedily, leave it out")
        self.alphabet = alphabet
        lm, listed = cast(str, settings.lm), cast(str, settings.words)  # the settings have both or neither
        spellings = _spellings(Path(listed), alphabet)
        words = dictionary.Dictionary([*spellings, UNKNOWN])
        if not Path(lm).is_file():
            raise ConfigError(f"there is no language model {lm}; check decoding.lm")
        try:
            model = KenLM(lm, words)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise ConfigError(f"KenLM cannot read the language model {settings.lm}: {reason}") from error
        silence = alphabet.symbols.index(BOUNDARY) + 1 if BOUNDARY in alphabet.symbols else BLANK
        tree = decoder.Trie(alphabet.classes, silence)
        start = model.start(False)
        for word, labels in spellings.items():
            number = words.get_index(word)
            tree.insert([*labels, silence], number, model.score(start, number)[1])
        tree.smear(decoder.SmearingMode.MAX)
        options = decoder.LexiconDecoderOptions(
            beam_size=settings.beam,
            beam_size_token=alphabet.classes,
            beam_threshold=25.0,
            lm_weight=settings.lm_weight,
            word_score=settings.word_score,
            unk_score=-float("inf"),
            sil_score=0.0,
            log_add=False,
            criterion_type=decoder.CriterionType.CTC,
        )
        self._words = words
        self._silence = silence
        self._decoder = decoder.LexiconDecoder(
            options, tree, model, silence, BLANK, words.get_index(UNKNOWN), [], False
        )

    def __call__(self, scores: Tensor) -> str:
        """The text of (T, classes) log probabilities, in words of the lexicon."""
        end = torch.full((1, scores.size(1)), IMPOSSIBLE)  # words end with a boundary, the last one too
        end[0, self._silence] = 0.0
        scores = torch.cat([scores.float().cpu(), end])
        best = self._decoder.decode(scores.data_ptr(), *scores.shape)[0]
        return " ".join(self._words.get_entry(number) for number in best.words if number >= 0)


def make_decoder(alphabet: Alphabet, settings: DecodingSettings) -> Decoder:
    """Raises ConfigError as `BeamDecoder`."""
    return GreedyDecoder(alphabet) if settings.lm is None else BeamDecoder(alphabet, settings)


def error_rates(kind: str, references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Errors over all references together: {"wer", "cer"}, or {"per"} of phones.

    Args:
        references: none of them empty.
    """
    import jiwer

    references, hypotheses = list(references), list(hypotheses)
    if kind == "phones":
        return {"per": jiwer.wer(references, hypotheses)}
    return {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses)}


def _spellings(path: Path, alphabet: Alphabet) -> Mapping[str, list[int]]:
    """Labels of each word in a file, words with foreign symbols left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # with a mark at its start, too, as editors put it
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the words in {path} cannot be read: {error}; check decoding.words") from error
    words = dict.fromkeys(line.split()[0] for line in lines if line.strip())
    spelled: dict[str, Any] = {word: alphabet.encode(word) for word in words if not alphabet.unknown(word)}
    if not spelled:
        raise ConfigError(f"no word in {path} can be spelled with {' '.join(alphabet.symbols)}; check decoding.words")
    return spelled
