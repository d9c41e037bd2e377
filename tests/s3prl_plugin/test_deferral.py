"""The hub without transformers, which comes when an upstream wants it."""

from __future__ import annotations

import pytest

pytest.importorskip("s3prl")

PROGRAM = """
import sys
import pruned_upstream
pruned_upstream.register()
from s3prl import hub
assert "transformers" not in sys.modules
assert "hf_hubert_custom" in hub.options()
name = "s3prl.upstream.hf_hubert.expert"
assert name not in sys.modules
try:
    hub.hf_hubert_custom("no/such/folder/at/all")
except OSError as error:  # what transformers says of a model that is not there
    assert "no/such/folder" in str(error) or "facebook/hubert" in str(error), error
assert "transformers" in sys.modules
import torch
assert issubclass(sys.modules[name].UpstreamExpert, torch.nn.Module)
"""


def test_transformers_is_imported_for_the_upstream_that_needs_it(python, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = python("-c", PROGRAM, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
