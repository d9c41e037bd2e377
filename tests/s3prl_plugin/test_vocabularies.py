"""The vocabularies, byte by byte."""

from __future__ import annotations

import hashlib

import pytest

from pruned_upstream.s3prl_plugin.parts import vocabularies

# s3prl/s3prl, main (ec8064b5), downstream/ctc/vocab
OF_S3PRL = {
    vocabularies.write_phonemes: "8787158b06c3dbb98f5fc6b0baa4607adb95bc5fc55c01d15d840d1ef205ff9c",
    vocabularies.write_characters: "345d90c95dc5db60b9e6d8c7d33533ad93f6d2a9a24ff5e9dc0f7ccbfa2edf90",
}


@pytest.mark.parametrize("write", OF_S3PRL)
def test_they_are_s3prls(write, tmp_path):
    assert hashlib.sha256(write(tmp_path / "vocabulary.txt").read_bytes()).hexdigest() == OF_S3PRL[write]
