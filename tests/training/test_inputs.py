"""One run has one folder, one teacher, the same recordings and the same transcripts: by content, not by path."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import random_encoder, tiny_config
from training.test_parp import finetuning, speech  # noqa: F401, F811 (fixtures)

from pruned_upstream.errors import DataError
from pruned_upstream.files import atomic_write, locked
from pruned_upstream.model.checkpoint import save
from pruned_upstream.training.distill import DistillRecipe, run_distill
from pruned_upstream.training.parp import run_parp
from pruned_upstream.training.prune import run_prune
from pruned_upstream.training.recipe import resolve_recipe


def silence(path: Path) -> None:
    """In place of the audio: same name, same length, same number of bytes, even the same times."""
    status = path.stat()
    frames = soundfile.info(path).frames
    soundfile.write(path, np.zeros(frames), 16000)
    assert path.stat().st_size == status.st_size
    import os

    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_same_teacher_elsewhere_goes_on(recipe, teacher_file: Path, tmp_path: Path) -> None:
    run_prune(recipe(**{"optimisation.steps": 2}))
    moved = shutil.move(teacher_file, tmp_path / "elsewhere.safetensors")
    run_prune(recipe(teacher=str(moved), **{"optimisation.steps": 3}), amend=True)


def test_another_teacher_at_the_same_path_is_refused(recipe, teacher_file: Path) -> None:
    run_prune(recipe())
    save(teacher_file, random_encoder(tiny_config(), seed=1))
    with pytest.raises(DataError, match="a run on other teacher weights than the recipe names now"):
        run_prune(recipe())


def test_silence_in_place_of_audio_is_noticed(recipe, recordings: Path) -> None:
    run_prune(recipe())
    silence(recordings / "speaker0" / "0.wav")
    with pytest.raises(DataError, match="a run on other recordings"):
        run_prune(recipe())


def test_other_transcripts_are_noticed(finetuning, speech: Path) -> None:  # noqa: F811
    run_parp(finetuning(**{"optimisation.steps": 2}))
    file = speech / "all.trans.txt"
    file.write_text(file.read_text().replace("TEA", "SEA"))
    with pytest.raises(DataError, match="a run on other transcripts"):
        run_parp(finetuning(**{"optimisation.steps": 2}))


def test_two_runs_in_one_folder(recipe, recordings: Path, teacher_file: Path, tmp_path: Path, monkeypatch) -> None:
    """Of whatever methods: the second is refused before it writes anything."""
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 0.1)
    tree = {
        "teacher": str(teacher_file),
        "data": {"train": str(recordings)},
        "optimisation": {"steps": 1},
        "run": {"folder": str(tmp_path / "run"), "device": "cpu"},
    }
    with locked(tmp_path / "run"):
        before = sorted((tmp_path / "run").rglob("*"))
        for train, given in ((run_prune, recipe()), (run_distill, resolve_recipe(tree, DistillRecipe))):
            with pytest.raises(DataError, match=r"in use by another run \(process \d+ on .*\)"):
                train(given)
        assert sorted((tmp_path / "run").rglob("*")) == before


def test_what_a_dead_run_left_half_written_goes(recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getpid", lambda: 2**22 + 1)  # no process has this number
        patch.setattr("pruned_upstream.files.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), atomic_write(run / "state.pt") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
    assert temporary.exists()
    (run / ".mine").write_text("kept")
    run_prune(recipe(**{"optimisation.steps": 1}))
    assert sorted(path.name for path in run.glob(".*")) == [".lock", ".mine"]


def test_a_folder_that_cannot_be_made_is_named(recipe, tmp_path: Path) -> None:
    from pruned_upstream.errors import PrunedUpstreamError

    (tmp_path / "file").write_text("")
    with pytest.raises(PrunedUpstreamError, match=r"the folder .*file/run cannot be made"):
        run_prune(recipe(**{"run.folder": str(tmp_path / "file" / "run")}))


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "run"):
        assert "has no locks" in caplog.text
