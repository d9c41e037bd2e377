import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All corpora at the tiny scale, recorded once a session."""
    for module in ("espeakng_loader", "soxr", "soundfile"):
        pytest.importorskip(module)
    from pruned_upstream.miniature import build

    root = tmp_path_factory.mktemp("miniature")
    build(root, scale="tiny", workers=os.cpu_count() or 1)
    return root
