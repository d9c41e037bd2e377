"""What `pip install s3prl` leaves out and the ten tasks need.

The lists of a clone of s3prl are preferred where one is given. Its code is not: a run is to compute the same with and
without a clone, so the readers are those below, unless s3prl itself is the clone.

ctc/corpus      found by s3prl as `s3prl.downstream.ctc.corpus`: readers of PR's and SF's corpora
vocabularies    symbols of PR, SF and ASR in the order of s3prl's vocabulary files, so that checkpoints fit both
librispeech     the csv files of PR (transcripts) and ASR (lengths, for bucketing), and PR's lexicon
snips           SF's sentences and slots
iemocap         ER's folds, and IEMOCAP's own labels
libri2mix       kaldi folders of SD from LibriMix's metadata
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ... import after_import

FOLDER = Path(__file__).parent
DOWNSTREAM_PACKAGES = ("ctc",)


def supply() -> None:
    """Let s3prl's downstream packages find here what they import and do not have."""
    for name in DOWNSTREAM_PACKAGES:
        after_import.after(f"s3prl.downstream.{name}", _extend)


def _extend(package: ModuleType) -> None:
    """Add our folder of the same name to the end of its search path: what a clone has itself comes first."""
    folder = str(FOLDER / package.__name__.rpartition(".")[2])
    if folder not in package.__path__:
        package.__path__.append(folder)
