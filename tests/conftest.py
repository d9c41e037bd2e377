"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import SHAPES, random_encoder, tiny_config
from typer.testing import CliRunner

from pruned_upstream import cli
from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.model.encoder import Encoder

# the same examples every time, however slow the machine: a failure is a failure of the code
settings.register_profile("exact", deadline=None, derandomize=True)
settings.load_profile("exact")

# `nohup` and a shell's background jobs have some ignored, and a process that is started inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> EncoderConfig:
    """Each tiny shape in turn: post- and pre-norm, both extractor modes, with and without relative positions."""
    return SHAPES[request.param]


@pytest.fixture
def tiny() -> Encoder:
    return random_encoder(tiny_config())


@pytest.fixture
def invoke() -> Callable[..., str]:
    """invoke("info", path) -> what `pruned-upstream info path` prints in a wide terminal; its errors are raised."""

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


@pytest.fixture
def exit_code(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """exit_code("info", path) -> with what the process `pruned-upstream info path` ends."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pruned-upstream", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0

    return run


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """The folder of real recordings beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real recordings in ../shared/real")
    return folder


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All corpora at the tiny scale, recorded once a session."""
    for module in ("espeakng_loader", "soxr", "soundfile"):
        pytest.importorskip(module)
    from pruned_upstream.miniature import build

    root = tmp_path_factory.mktemp("miniature")
    build(root, scale="tiny", workers=os.cpu_count() or 1)
    return root
