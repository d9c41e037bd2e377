"""Audio SNIPS: sentences with slots, spoken by synthetic voices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.parts import snips

from .buckets import BucketedUtterances


class SnipsDataset(BucketedUtterances):
    """Slot filling on Audio SNIPS.

    Args:
        split: folders under `path`, each with `SPEAKER-snips-SPLIT-N.wav` files.
        tokenizer: s3prl's character tokenizer with slots; it takes the words and the tags, separated by a tab.
        bucket_size: utterances an item.
        path: root of the corpus, with `all.iob.snips.txt` (utterance, words, tab, tags).
        {train,valid,test}_speakers: voices of the folder of that name; all if not given.

    Raises:
        DataError: the transcripts are missing or damaged, no recording of a split has one, or a slot has no symbol.
    """

    def __init__(
        self,
        split: Sequence[str],
        tokenizer: Any,
        bucket_size: int,
        *,
        path: str,
        ascending: bool = False,
        **options: Any,
    ) -> None:
        root = Path(path)
        sentences = snips.read_sentences(root / snips.SENTENCES)
        snips.require_slots(sentences, frozenset(mark[2:] for mark in tokenizer.slots), root / snips.SLOTS)
        utterances = []
        for name in split:
            speakers = options.get(f"{name}_speakers")
            # the order among sentences of equal length is fixed here, not by the file system
            recordings = [wav for wav in snips.recordings(root / name, speakers) if wav.stem in sentences]
            if not recordings:
                raise DataError(f"{root / name} holds no .wav file of its speakers with a line in all.iob.snips.txt")
            utterances += [(str(wav), tokenizer.encode(sentences[wav.stem])) for wav in recordings]
        super().__init__(utterances, bucket_size, ascending=ascending)
