"""Files appear whole, with the permissions of any other file, or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.files import atomic_files, atomic_folder, atomic_write, locked, make_folder, write_text


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


def test_what_a_dead_process_left_goes_when_the_folder_is_held(tmp_path):
    script = "import os, sys\nfrom pruned_upstream.files import atomic_write\n"
    script += "with atomic_write(sys.argv[1]) as temporary:\n    temporary.write_text('half')\n    os._exit(9)\n"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".unfinished")
    with atomic_write(tmp_path / "mine") as living, locked(tmp_path):
        assert not left.exists() and living.exists()


def test_what_a_dead_process_left_of_a_file_goes_when_the_same_file_is_written_again(tmp_path):
    """Also what the library had put beside it, as safetensors does."""
    script = "import os, sys\nfrom pruned_upstream.files import atomic_write\n"
    script += "with atomic_write(sys.argv[1]) as temporary:\n    (temporary.parent / '.tmpXyZ').touch()\n"
    script += "    os._exit(9)"
    for name in ("model.onnx", "other.onnx"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(tmp_path / "model.onnx") as temporary:
        temporary.write_text("whole")
    other, written = sorted(path.name for path in tmp_path.iterdir())
    assert written == "model.onnx" and other.startswith(".other.onnx.")


def test_a_file_is_called_by_its_final_name_while_it_is_written(tmp_path):
    """Archives of torch hold the name of their file; they are equal byte for byte when it is the same."""
    with atomic_write(tmp_path / "state.pt") as temporary:
        assert temporary.name == "state.pt"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out", last="b") as unfinished:
        (unfinished / "b").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out" / ".git").mkdir(parents=True)
    with atomic_folder(tmp_path / "out", last="a") as unfinished:
        (unfinished / "a").write_text("x")
        (unfinished / "b").write_text("y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".git", "a", "b"]
    held = pytest.raises(PrunedUpstreamError, match="holds a already|holds b already")
    with held, atomic_folder(tmp_path / "out", last="a"):
        pass


def test_of_two_processes_that_fill_one_folder_one_is_told(tmp_path):
    """Both found it free."""
    out, held = tmp_path / "out", pytest.raises(PrunedUpstreamError, match="out holds a already")
    with held, atomic_folder(out, last="a") as late:
        (late / "a").write_text("late")
        with atomic_folder(out, last="a") as early:
            (early / "a").write_text("early")
    assert (out / "a").read_text() == "early"
    (out / "a").unlink()
    with held, atomic_folder(out, last="a") as late:  # the folder is there, and empty
        (late / "a").write_text("late")
        with atomic_folder(out, last="a") as early:
            (early / "a").write_text("early")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_that_belong_together_come_together_or_not_at_all(tmp_path):
    (tmp_path / "b").write_text("earlier")
    (tmp_path / "c").write_text("not theirs")
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path) as unfinished:
        write_text(unfinished / "b", "later")
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "b").read_text() == "earlier"
    with atomic_files(tmp_path) as unfinished:
        write_text(unfinished / "b", "later")
        write_text(unfinished / "deeper" / "a", "later")
        assert (tmp_path / "b").read_text() == "earlier"
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"b": "later", "c": "not theirs", "deeper/a": "later"}


def test_a_fault_names_the_place_and_not_the_folder_of_what_is_unfinished(tmp_path):
    (tmp_path / "out" / "file").mkdir(parents=True)
    with pytest.raises(PrunedUpstreamError) as caught, atomic_files(tmp_path / "out") as unfinished:
        (unfinished / "file").mkdir()
        write_text(unfinished / "file", "x")
    assert str(caught.value).startswith(f"{tmp_path}/out/file is a folder where a file is to be written")
    (tmp_path / "out" / "other").mkdir()
    refused = pytest.raises(PrunedUpstreamError, match="out/other is a folder")
    with refused, atomic_files(tmp_path / "out") as unfinished:
        write_text(unfinished / "first", "x")
        write_text(unfinished / "other", "x")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file", "other"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for use in (make_folder, lambda path: locked(path).__enter__()):
        with pytest.raises(PrunedUpstreamError, match=r"file is a file where a folder is needed|cannot be made"):
            use(tmp_path / "file")


def test_a_folder_where_a_file_should_be_is_told_before_anything_is_computed(tmp_path):
    with pytest.raises(PrunedUpstreamError, match="is a folder where a file"), atomic_write(tmp_path):
        pytest.fail("it was begun")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 40 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40960", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # torch holds its file until the error is gone


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_full_disk_is_a_sentence_whatever_the_library_calls_it(library, small_disk):
    """torch says "unexpected pos 64 vs 0", in a RuntimeError."""
    tensors = {"a": torch.zeros(30_000)}
    (small_disk / "model").write_text("old")
    full = pytest.raises(PrunedUpstreamError, match="could not write .*No space left on device; nothing was changed")
    with full, atomic_write(small_disk / "model") as temporary:
        if library == "torch":
            torch.save(tensors, temporary)
        else:
            save_file(tensors, temporary)
    assert [path.read_text() for path in small_disk.iterdir()] == ["old"]


def test_a_group_for_whose_second_file_there_is_no_room_harms_none(small_disk):
    for name in ("a", "b"):
        write_text(small_disk / name, "earlier")
    sentence = pytest.raises(PrunedUpstreamError, match=r"could not write .*disk/b: No space left on device; nothing")
    with sentence, atomic_files(small_disk) as unfinished:
        write_text(unfinished / "a", "later" * 1000)
        write_text(unfinished / "b", "later" * 10_000)
    assert {path.name: path.read_text() for path in small_disk.iterdir()} == {"a": "earlier", "b": "earlier"}
