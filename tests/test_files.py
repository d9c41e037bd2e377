"""Files appear whole, with the permissions of any other file, or not at all."""

from __future__ import annotations

import os

import pytest

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.files import atomic_write


def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.unlink()  # what a library does that writes and renames by itself
        handle = os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)
        os.close(handle)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunedUpstreamError, match="could not write"), atomic_write(tmp_path / "file" / "below"):
        pass
