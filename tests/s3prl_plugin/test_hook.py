"""The .pth hook: there, switched off, gone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruned_upstream.cli import build_app
from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.s3prl_plugin import hook

pytest.importorskip("s3prl")

# what Python does with a site-packages folder when it starts
START = "import site, sys; site.addsitedir(sys.argv[1]); "
INERT = START + "print([name for name in ('torch', 's3prl', 'torchaudio') if name in sys.modules])"
KNOWN = START + "from s3prl import hub; print(hasattr(hub, 'pruned_wavlm'))"


def test_install_status_remove(tmp_path):
    assert not hook.status(tmp_path).installed
    for _ in range(2):
        assert hook.install(tmp_path) == tmp_path / hook.FILE
    assert hook.status(tmp_path) == hook.Status(tmp_path / hook.FILE, installed=True, enabled=True)
    assert [path.name for path in tmp_path.iterdir()] == [hook.FILE]
    assert hook.remove(tmp_path)
    assert not hook.remove(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrunedUpstreamError, match="could not write"):
        hook.install(tmp_path / "file")


def test_the_switch_shows_in_the_status(tmp_path, monkeypatch):
    monkeypatch.setenv(hook.SWITCH, "0")
    assert not hook.status(tmp_path).enabled


def test_s3prl_knows_our_names_while_the_hook_is_there(tmp_path, python):
    hook.install(tmp_path)
    assert python("-c", INERT, str(tmp_path), cwd=tmp_path).stdout == "[]\n"
    found = python("-c", KNOWN, str(tmp_path), cwd=tmp_path)
    assert found.stdout.endswith("True\n"), found.stderr


def test_switched_off_or_removed_nothing_happens(tmp_path, python):
    hook.install(tmp_path)
    watching = START + "print([type(finder).__module__ for finder in sys.meta_path])"
    assert "after_import" in python("-c", watching, str(tmp_path), cwd=tmp_path).stdout
    assert "after_import" not in python("-c", watching, str(tmp_path), cwd=tmp_path, **{hook.SWITCH: "0"}).stdout
    hook.remove(tmp_path)
    assert "after_import" not in python("-c", watching, str(tmp_path), cwd=tmp_path).stdout


def test_left_behind_by_an_uninstalled_package_it_is_silent(tmp_path, python):
    hook.install(tmp_path)
    orphan = python("-S", "-c", START + "print('started')", str(tmp_path), cwd=tmp_path, PYTHONPATH="")
    assert (orphan.stdout, orphan.stderr) == ("started\n", "")


def test_a_clones_script_that_imports_torchaudio_first(tmp_path, python):
    hook.install(tmp_path)
    script = tmp_path / "run_downstream.py"
    script.write_text(START + "import torch, torchaudio\nfrom s3prl import hub\nprint(hasattr(hub, 'pruned_wavlm'))\n")
    found = python(str(script), str(tmp_path), cwd=tmp_path)
    assert found.stdout.endswith("True\n"), found.stderr


def test_nothing_is_written_into_s3prl(tmp_path):
    package = Path(importlib.util.find_spec("s3prl").origin).parent
    before = {path: path.stat().st_mtime_ns for path in package.glob("*.py")}
    hook.install(tmp_path)
    hook.remove(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in package.glob("*.py")} == before


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(hook.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    app, runner = build_app(), CliRunner()
    for command, words in [
        ("status", "not installed"),
        ("install", hook.SWITCH),
        ("status", "installed: "),
        ("remove", "removed"),
        ("remove", "there was no hook"),
    ]:
        result = runner.invoke(app, ["hook", command])
        assert result.exit_code == 0 and words in result.stdout, result.stdout
