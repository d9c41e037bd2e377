"""s3prl finds in our folder what it lacks, and in its own what it has."""

from __future__ import annotations

from types import ModuleType

import pytest

from pruned_upstream.s3prl_plugin import parts
from pruned_upstream.s3prl_plugin.registry import register

pytest.importorskip("s3prl")


def test_the_corpus_readers_are_found():
    register()
    from s3prl.downstream.ctc.corpus.libriphone import LibriPhoneDataset
    from s3prl.downstream.ctc.corpus.snips import SnipsDataset

    assert LibriPhoneDataset and SnipsDataset


def test_a_clones_own_parts_come_first(tmp_path):
    package = ModuleType("s3prl.downstream.ctc")
    package.__path__ = [str(tmp_path)]
    for _ in range(2):
        parts._extend(package)
    assert package.__path__ == [str(tmp_path), str(parts.FOLDER / "ctc")]
