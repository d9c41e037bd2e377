"""A run that is killed, stopped or moved goes on to the same weights, or says why it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training.conftest import write_noise
from training.launching import ctrl_c_after, launch, read_metrics, read_state

from pruned_upstream.errors import CheckpointError, ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.readme import README
from pruned_upstream.training import growing, loop, state
from pruned_upstream.training.data import Batch
from pruned_upstream.training.growing import GrowingCorpus
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.prune import PruneRecipe, run_prune
from pruned_upstream.training.recipe import default_keys, flat_keys, key_kinds

LONG = {"optimisation.steps": 40, "run.checkpoint_every": 3, "dropout.hidden": 0.1, "data.workers": 1}


def assert_bitwise_equal(folder: Path, reference: Path) -> None:
    ours, theirs = read_state(folder), read_state(reference)
    assert ours["step"] == theirs["step"]
    for name, tensor in theirs["objective"].items():
        assert torch.equal(ours["objective"][name], tensor), name
    assert read_metrics(folder) == read_metrics(reference)
    a, b = (load(path / "compact.safetensors") for path in (folder, reference))
    assert a.config == b.config
    assert_equal_weights(a, b)


def assert_equal_weights(a: Encoder, b: Encoder) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the launched processes have: sums over another number of threads end in other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_explains_itself(folder: Path) -> None:
    """The README of a run that is not finished names every file that a reader finds."""
    said = (folder / README).read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([^`]+)`", said, flags=re.M))
    assert {path.name for path in folder.iterdir()} - {README, ".lock"} <= explained
    assert "not finished" in said and f"pruned-upstream report {folder}" in said


def test_a_run_that_was_killed_and_terminated_ends_with_the_same_bits(recipe, tmp_path: Path, one_thread: None) -> None:
    killed = recipe(**LONG | {"run.folder": str(tmp_path / "killed")})
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for lines, kind in ((5, signal.SIGKILL), (17, signal.SIGTERM)):
        process = launch(killed, folder=tmp_path)
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.killpg(process.pid, kind)  # the loader's processes too, as schedulers and terminals do
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert ("KeyboardInterrupt" in output) == (kind == signal.SIGTERM), output
        assert 0 < read_state(tmp_path / "killed")["step"] < LONG["optimisation.steps"]
        assert_explains_itself(tmp_path / "killed")
    run_prune(killed)
    run_prune(recipe(**LONG | {"run.folder": str(tmp_path / "whole")}))
    assert_bitwise_equal(tmp_path / "killed", tmp_path / "whole")
    launches = json.loads((tmp_path / "killed" / "launches.json").read_text())
    first, second, third = (record["from_step"] for record in launches)
    assert first == 0 < second < third


GROWS = """
import time
from pruned_upstream.training import growing
growing.AT_ONCE, measured = 3, growing.measured
growing.measured = lambda *arguments, **options: time.sleep(1) or measured(*arguments, **options)
"""


def test_a_growing_corpus_that_was_killed_gives_the_same_batches(
    recipe, recordings: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while headers are still read and nothing is saved, once later; with recordings that cannot be used."""
    (recordings / "speaker0" / "a.wav").touch()
    (recordings / "speaker1" / "b.flac").write_bytes(b"fLaC" + bytes(range(200)))
    options = LONG | {"optimisation.steps": 20, "data.batch_utterances": 3}
    killed = recipe(**options | {"run.folder": str(tmp_path / "killed")})
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for lines in (1, 7):
        process = launch(killed, folder=tmp_path, first=GROWS)
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert (tmp_path / "killed" / "state.pt").exists() == (lines > 3)
    monkeypatch.setattr(growing, "AT_ONCE", 3)
    drawn, step = [], Trainer.step

    def noted(trainer: Trainer, number: int, parts: list[Batch]) -> None:
        assert isinstance(trainer.batches.corpus, GrowingCorpus)
        drawn[-1].append([(part.utterances, part.starts, part.seed, part.skipped) for part in parts])
        step(trainer, number, parts)

    monkeypatch.setattr(Trainer, "step", noted)
    for folder in (killed, recipe(**options | {"run.folder": str(tmp_path / "whole")})):
        drawn.append([])
        run_prune(folder)
    resumed, whole = drawn
    assert len(whole) == 20 and 0 < len(resumed) < 18
    assert resumed == whole[-len(resumed) :]
    skipped = {name for parts in whole for *_, skipped in parts for name in skipped}
    assert skipped == {"speaker0/a.wav", "speaker1/b.flac"}
    assert_bitwise_equal(tmp_path / "killed", tmp_path / "whole")


def test_ctrl_c_saves_and_the_same_command_goes_on(recipe, tmp_path: Path) -> None:
    options = {"optimisation.steps": 8, "run.checkpoint_every": 100}
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")}))
    stopped = recipe(**options | {"run.folder": str(tmp_path / "stopped")})
    before = signal.getsignal(signal.SIGINT)
    with ctrl_c_after(5):
        run_prune(stopped)
    assert read_state(tmp_path / "stopped")["step"] == 5
    assert not (tmp_path / "stopped" / "compact.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before  # a shell may have started us with SIGINT ignored
    run_prune(stopped)
    assert_bitwise_equal(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("stopped_after", [1, 4, 5])
def test_the_curves_do_not_show_where_a_run_was_stopped(recipe, tmp_path: Path, stopped_after: int) -> None:
    """Between two lines of metrics.jsonl, each the mean of three steps."""
    options = {"optimisation.steps": 8, "run.checkpoint_every": 100, "run.log_every": 3}
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")}))
    stopped = recipe(**options | {"run.folder": str(tmp_path / "stopped")})
    with ctrl_c_after(stopped_after):
        run_prune(stopped)
    run_prune(stopped)
    assert [row["step"] for row in read_metrics(tmp_path / "stopped")] == [3, 6, 8]
    assert_bitwise_equal(tmp_path / "stopped", tmp_path / "whole")


def test_states_between_two_lines_of_the_curves_keep_what_was_not_told_yet(recipe, tmp_path: Path) -> None:
    """A kill leaves the last state, and no line of its own."""
    options = {"optimisation.steps": 9, "run.checkpoint_every": 2, "run.log_every": 5}
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")}))
    killed = recipe(**options | {"run.folder": str(tmp_path / "killed")})
    step = Trainer.step

    def dies(trainer: Trainer, number: int, parts) -> None:
        if number == 7:
            raise MemoryError
        step(trainer, number, parts)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "step", dies)
        run_prune(killed)
    assert read_state(tmp_path / "killed")["step"] == 6
    run_prune(killed)
    assert [row["step"] for row in read_metrics(tmp_path / "killed")] == [5, 9]
    assert_bitwise_equal(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_run_exports_again_without_training(recipe, tmp_path: Path) -> None:
    path = run_prune(recipe())
    before, metrics = load(path), read_metrics(path.parent)
    path.unlink()
    after = load(run_prune(recipe()))
    assert after.config == before.config
    assert_equal_weights(after, before)
    assert read_metrics(path.parent) == metrics


def test_a_run_moves_with_its_recordings(recipe, recordings: Path, tmp_path: Path) -> None:
    run_prune(recipe())
    moved = recordings.rename(tmp_path / "moved")
    run_prune(recipe(**{"data.train": [str(moved)], "data.workers": 1, "run.log_every": 5}))


@pytest.mark.parametrize(
    ("key", "value"), [("distillation.pairing", "v3"), ("optimisation.steps", 8), ("run.seed", 1), ("gates.conv", True)]
)
def test_another_recipe_in_the_folder_is_refused(recipe, key: str, value: object) -> None:
    run_prune(recipe())
    with pytest.raises(ConfigError, match=f"run of another recipe: {key} .*name another run.folder"):
        run_prune(recipe(**{key: value}))


def test_of_many_differences_the_first_are_named(tmp_path: Path) -> None:
    saved, current = ({f"section.{letter}": value for letter in "abcdefgh"} for value in (0, 1))
    with pytest.raises(ConfigError, match=r"section\.e \(0 there, 1 here\) and 3 more; name another") as caught:
        state.check_same_run(tmp_path, saved, current, {})
    assert "section.f" not in str(caught.value)


def test_a_key_that_is_newer_than_the_state_counts_as_its_default(recipe, tmp_path: Path) -> None:
    given = recipe(**{"optimisation.gate_schedule": "constant"})
    saved = flat_keys(given)
    del saved["optimisation.gate_schedule"]
    kinds, defaults = key_kinds(PruneRecipe), default_keys(given)
    assert state.check_same_run(tmp_path, saved, flat_keys(given), kinds, defaults=defaults) == {}
    other = flat_keys(recipe(**{"optimisation.gate_schedule": "linear"}))
    with pytest.raises(ConfigError, match=r"gate_schedule \('constant' there, 'linear' here\)"):
        state.check_same_run(tmp_path, saved, other, kinds, defaults=defaults)


def test_other_recordings_are_refused(recipe, recordings: Path) -> None:
    run_prune(recipe())
    write_noise(recordings / "new.wav", 2000)
    with pytest.raises(DataError, match="other recordings"):
        run_prune(recipe())


@pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: b"", lambda data: b"not a state"])
def test_a_damaged_state_is_named(recipe, tmp_path: Path, damage) -> None:
    run_prune(recipe())
    path = tmp_path / "run" / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read: it is truncated.*remove"):
        run_prune(recipe())


def test_a_foreign_state_is_named(recipe, tmp_path: Path) -> None:
    run_prune(recipe())
    torch.save({"model": {}}, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError, match="not a training state"):
        run_prune(recipe())


def test_a_state_with_code_in_it_does_not_run(recipe, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "run").mkdir()
    torch.save({"format": state.FORMAT, "trap": Trap()}, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_prune(recipe())
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_keeps_the_last_state(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    original = loop.save_state

    def on_a_full_disk(path, contents):
        if contents["step"] < 4:
            return original(path, contents)
        size = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        try:
            return original(path, contents)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", on_a_full_disk)
        with pytest.raises(PrunedUpstreamError, match=r"could not write .*state\.pt: File too large"):
            run_prune(recipe())
    assert read_state(run)["step"] == 2
    assert [path.name for path in run.glob(".*")] == [".lock"]
    run_prune(recipe())
    shutil.move(run, tmp_path / "resumed")
    run_prune(recipe())
    assert_bitwise_equal(tmp_path / "resumed", run)


def test_processes_that_see_another_state_are_told(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node whose run.folder is a disk of its own: it finds no finished step where the others find six."""
    run_prune(recipe())
    check = Trainer._check_agreement

    def of_two(trainer: Trainer) -> None:
        trainer.processes = dataclasses.replace(trainer.processes, world=2)
        check(trainer)

    monkeypatch.setattr(Trainer, "_check_agreement", of_two)
    monkeypatch.setattr(Processes, "sum_", lambda self, tensor: 2 * tensor + torch.tensor([6.0, 0.0]).double())
    with pytest.raises(ConfigError, match="a file system that all of them share"):
        run_prune(recipe())


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", None), ("step", -5), ("metrics_bytes", "x"), ("dropped", -5), ("amendments", {}), ("optimiser", [])],
)
def test_a_state_whose_parts_are_of_another_kind(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "state.pt"
    whole = {name: 3 if kind is int else kind() for name, kind in state.KINDS.items()}
    state.save_state(path, whole)
    assert state.load_state(path, device=torch.device("cpu"))["step"] == 3
    state.save_state(path, whole | {name: value})
    with pytest.raises(CheckpointError, match=f"damaged: its {name} is"):
        state.load_state(path, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ["recipe", "inputs", "objective", "optimiser", "unreported"])
def test_a_state_that_lacks_what_is_in_its_parts(recipe, tmp_path: Path, name: str) -> None:
    options = {"optimisation.steps": 3, "run.log_every": 2, "run.checkpoint_every": 100}
    with ctrl_c_after(1):
        run_prune(recipe(**options))
    path = tmp_path / "run" / "state.pt"
    saved = read_state(tmp_path / "run")
    if name in ("recipe", "inputs"):
        del saved[name]
    else:
        saved[name] = {"names": ["loss"]}
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
        run_prune(recipe(**options))
