"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from tiny import SHAPES, random_encoder, tiny_config

from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.model.encoder import Encoder

# the same examples every time, however slow the machine: a failure is a failure of the code
settings.register_profile("exact", deadline=None, derandomize=True)
settings.load_profile("exact")


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> EncoderConfig:
    """Each tiny shape in turn: post- and pre-norm, both extractor modes, with and without relative positions."""
    return SHAPES[request.param]


@pytest.fixture
def tiny() -> Encoder:
    return random_encoder(tiny_config())


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """The folder of real recordings beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real recordings in ../shared/real")
    return folder
