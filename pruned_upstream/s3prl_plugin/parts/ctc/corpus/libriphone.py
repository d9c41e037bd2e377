"""LibriSpeech as phonemes: the words of the transcripts, looked up in a lexicon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.parts import librispeech

from .buckets import BucketedUtterances


class LibriPhoneDataset(BucketedUtterances):
    """Phoneme recognition on LibriSpeech.

    Args:
        split: csv file in `csv_dir` with the columns `wav_path` and `transcription`; without `csv_dir` the names of
            LibriSpeech's folders under `path`. s3prl has had both forms.
        tokenizer: s3prl's word tokenizer over phonemes.
        bucket_size: utterances an item.
        lexicon: files of lines `WORD P1 P2 ...`; of several pronunciations the first counts.

    Raises:
        DataError: a word without pronunciation, or a phoneme outside the tokenizer's vocabulary.
    """

    def __init__(
        self,
        split: str | Sequence[str],
        tokenizer: Any,
        bucket_size: int,
        *,
        lexicon: Sequence[str],
        csv_dir: str | None = None,
        path: str | None = None,
        ascending: bool = False,
        **_: Any,
    ) -> None:
        if csv_dir is not None:
            utterances = librispeech.read_transcripts_csv(Path(csv_dir) / str(split))
        elif path is not None:
            utterances = librispeech.find_utterances(Path(path), split)
        else:
            raise DataError("the corpus 'libriphone' needs csv_dir, or the path of LibriSpeech")
        pronunciations = librispeech.read_lexicon(lexicon)
        librispeech.require_pronunciations(utterances, pronunciations)
        self._require_symbols(pronunciations, tokenizer)

        def tokens(transcript: str) -> list[int]:
            return tokenizer.encode(" ".join(phone for word in transcript.split() for phone in pronunciations[word]))

        super().__init__(
            [(str(utterance.path), tokens(utterance.transcript)) for utterance in utterances],
            bucket_size,
            ascending=ascending,
        )

    @staticmethod
    def _require_symbols(pronunciations: librispeech.Lexicon, tokenizer: Any) -> None:
        phones = {phone for pronunciation in pronunciations.values() for phone in pronunciation}
        unknown = sorted(phone for phone in phones if tokenizer.vocab_to_idx(phone) == tokenizer.unk_idx)
        if unknown:
            raise DataError(f"the lexicon uses phonemes outside the vocabulary: {' '.join(unknown)}")
