"""Running: one folder a task, resume after a kill at any point, locks, failures, and s3prl itself once.

Most tests put a few lines in the place of s3prl: what a run of it does to the disk, in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pruned_upstream.errors import ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.files import locked
from pruned_upstream.superb import running, worker
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.results import read_results
from pruned_upstream.superb.running import Settings, run

fork = multiprocessing.get_context("fork")


def option(arguments, name):
    return arguments[arguments.index(name) + 1]


def imitate_s3prl(arguments):
    """Trainings write states-1 ... states-3 and, if one is there, go on behind the last; tests print a metric."""
    if option(arguments, "-m") == "evaluate":
        assert Path(option(arguments, "-e")).exists()
        print("test acc: 0.5")
        return
    folder = Path(option(arguments, "-p"))
    done = len(list(folder.glob("states-*.ckpt")))
    for step in range(done + 1, 4):
        print(f"dev acc: {step / 10}")
        (folder / f"states-{step}.ckpt").touch()
        if step == 2 and (folder.parents[1] / "hang").exists():
            (folder / "hanging").write_text(str(os.getpid()))
            time.sleep(60)
        if (folder.parent / "fail").exists():
            raise RuntimeError("the dog ate it")
    (folder / "dev-best.ckpt").touch()


def imitate_probe(upstream, checkpoint, model_config, report):
    if upstream == "impossible":
        raise PrunedUpstreamError("no such upstream")
    report.write_text(yaml.safe_dump({"layers": 2, "parameters": 7}))


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """KS and IC on minimal corpora, s3prl imitated."""
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.setattr(worker, "preload", lambda *_: None)
    monkeypatch.setattr(worker, "run_s3prl", imitate_s3prl)
    monkeypatch.setattr(worker, "probe_upstream", imitate_probe)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 0.3)
    data = tmp_path / "data"
    training, testing = data / "speech_commands_v0.01", data / "speech_commands_test_set_v0.01"
    words = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    files = [training / word / "a_nohash_0.wav" for word in words] + [training / "_background_noise_" / "hum.wav"]
    files += [testing / word / "b_nohash_0.wav" for word in [*words, "_unknown_", "_silence_"]]
    commands = data / "fluent_speech_commands_dataset"
    for part in ("train", "valid", "test"):
        (commands / "data").mkdir(parents=True, exist_ok=True)
        (commands / f"data/{part}_data.csv").write_text("path,action,object,location\nwavs/a.wav,bring,tea,none\n")
    for file in [*files, commands / "wavs/a.wav"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, [0.0] * 160, 16000)
    return Settings(
        folder=tmp_path / "run",
        upstream="fbank",
        data=Data(data),
        tasks=("ks", "ic"),
        steps=3,
    )


def stdout_of(settings, stage):
    return (settings.folder / stage / worker.STDOUT).read_text().splitlines()


def test_finished_tasks_are_in_the_results_and_are_not_run_again(settings, monkeypatch):
    report = run(settings)
    assert report.failures == {}
    assert {name: dict(result.metrics) for name, result in report.results.tasks.items()} == {
        "ks": {"acc": 50.0},
        "ic": {"acc": 50.0},
    }
    assert report.results.parameters == 7
    result = report.results.tasks["ks"]
    assert (result.official, result.steps, result.folders) == (False, 3, ("ks/test",))
    assert "3 training steps instead of 200000" in result.notes
    assert stdout_of(settings, "ks/train") == ["dev acc: 0.1", "dev acc: 0.2", "dev acc: 0.3"]

    monkeypatch.setattr(worker, "run_s3prl", lambda arguments: pytest.fail("was run again"))
    assert run(settings).results == report.results == read_results(settings.folder)


def test_another_task_joins_the_results_of_the_folder(settings):
    run(replace(settings, tasks=("ks",)))
    assert set(run(replace(settings, tasks=("ic",))).results.tasks) == {"ks", "ic"}


def test_a_failing_task_does_not_stop_the_others_and_leaves_its_last_words(settings):
    (settings.folder / "ks").mkdir(parents=True)
    (settings.folder / "ks/fail").touch()
    report = run(settings)
    assert list(report.results.tasks) == ["ic"]
    assert report.failures["ks"].reason == "ks/train ended with exit code 1"
    assert report.failures["ks"].log_tail[-1] == "RuntimeError: the dog ate it"

    (settings.folder / "ks/fail").unlink()
    assert set(run(settings).results.tasks) == {"ks", "ic"}
    assert stdout_of(settings, "ks/train") == ["dev acc: 0.1", "dev acc: 0.2", "dev acc: 0.3"]


def wait_for(path: Path) -> int:
    for _ in range(500):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.02)
    raise TimeoutError(path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at Linux's /proc")
def test_after_kill_minus_nine_the_child_dies_too_and_the_run_goes_on_where_it_was(settings):
    settings.folder.mkdir()
    run(replace(settings, tasks=("ic",)))
    (settings.folder / "hang").touch()
    parent = fork.Process(target=run, args=(settings,))
    parent.start()
    child = wait_for(settings.folder / "ks/train/hanging")
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    for _ in range(200):
        if not is_alive(child):
            break
        time.sleep(0.02)
    assert not is_alive(child)
    assert list(read_results(settings.folder).tasks) == ["ic"]

    (settings.folder / "hang").unlink()
    report = run(settings)
    assert report.failures == {}
    assert set(report.results.tasks) == {"ks", "ic"}
    # states-1 and states-2 were kept, so that only step 3 was left to do
    assert stdout_of(settings, "ks/train") == ["dev acc: 0.1", "dev acc: 0.2", "dev acc: 0.3"]


def test_a_killed_worker_is_named_with_its_signal(settings, monkeypatch):
    monkeypatch.setattr(worker, "run_s3prl", lambda arguments: os.kill(os.getpid(), signal.SIGKILL))
    report = run(replace(settings, tasks=("ks",)))
    assert report.failures["ks"].reason.startswith("ks/train was killed by SIGKILL")


def test_two_runs_in_one_folder_are_refused(settings):
    with locked(settings.folder / "ks"), pytest.raises(DataError, match="in use by another run"):
        run(settings)


@pytest.mark.parametrize("change", [{"upstream": "mfcc"}, {"seed": 1}, {"steps": 5}])
def test_a_folder_keeps_to_what_it_was_begun_with(settings, change):
    run(replace(settings, tasks=("ks",)))
    if "steps" in change:
        report = run(replace(settings, tasks=("ks",), **change))
        assert "runner.total_steps: 3 -> 5" in report.failures["ks"].reason
    else:
        with pytest.raises(ConfigError, match="give another folder"):
            run(replace(settings, tasks=("ks",), **change))


def test_incomplete_data_fail_their_task_alone(settings):
    (settings.data.root / "fluent_speech_commands_dataset/wavs/a.wav").unlink()
    report = run(settings)
    assert list(report.results.tasks) == ["ks"]
    assert "1 of 1 recordings of train_data.csv are missing" in report.failures["ic"].reason


def test_an_upstream_that_cannot_be_built_is_said_before_anything_trains(settings):
    with pytest.raises(PrunedUpstreamError, match="impossible cannot be built: no such upstream"):
        run(replace(settings, upstream="impossible"))
    assert not (settings.folder / "ks/train").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "at least 1"),
        ({"tasks": ("nope",)}, "unknown task"),
        ({"learning_rates": {"ks": (0.0,)}}, "must be positive"),
        ({"checkpoint": Path("nowhere.ckpt")}, "does not exist"),
    ],
)
def test_impossible_settings_are_refused(settings, change, words):
    with pytest.raises(PrunedUpstreamError, match=words):
        replace(settings, **change)


def test_several_stages_run_side_by_side(settings, monkeypatch):
    monkeypatch.setattr(worker, "run_s3prl", lambda arguments: (time.sleep(0.3), imitate_s3prl(arguments)))
    report = run(replace(settings, jobs=2))
    assert set(report.results.tasks) == {"ks", "ic"}


def test_jobs_of_submitit_write_into_the_same_folder(settings):
    from pruned_upstream.superb.launching import launch

    report = launch(settings, "debug", {})
    assert (set(report.results.tasks), report.failures) == ({"ks", "ic"}, {})
    with pytest.raises(ConfigError, match="submitit refuses"):
        launch(settings, "debug", {"slurm_partitoin": "gpu"})
    with pytest.raises(ConfigError, match="unknown launcher"):
        launch(settings, "pbs", {})


def test_the_tail_of_a_log_leaves_progress_bars_out(tmp_path):
    log = tmp_path / "stderr.txt"
    log.write_text(
        "first\ntrain:  10%|#  | 1/10 [00:01<00:09,  1.00it/s]\rtrain: 20%|# | 2/10 [00:02, 1.00it/s]\nlast\n\n"
    )
    assert running.tail(log) == ("first", "last")
    assert running.tail(tmp_path / "absent") == ()


def test_an_interrupted_checkpoint_is_not_seen(tmp_path):
    """s3prl takes the last states-N.ckpt there is, so half of one must never carry that name."""
    import torch

    class Unpicklable:
        def __reduce__(self):
            raise KeyboardInterrupt

    with worker._whole_checkpoints():
        torch.save({"Step": 1}, tmp_path / "states-1.ckpt")
        with pytest.raises(KeyboardInterrupt):
            torch.save([torch.zeros(3), Unpicklable()], str(tmp_path / "states-2.ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == ["states-1.ckpt"]
    assert torch.load(tmp_path / "states-1.ckpt") == {"Step": 1}


def test_a_parent_that_has_computed_with_threads_is_told_so(tmp_path):
    """OpenMP's threads are gone in a forked child; found by a demo that hung after its pruning."""
    program = """
import sys, torch
from functools import partial
from pathlib import Path
from pruned_upstream.superb import worker
worker.OPENMP_PATIENCE_SECONDS = 5.0
torch.set_num_threads(2)
if sys.argv[2] == "apart":
    total = worker.apart(partial(torch.ones, 1 << 20))
else:
    total = torch.ones(1 << 20).exp()
child = worker.start(partial(print, "went well"), folder=Path(sys.argv[1]))
child.process.join()
print(child.failure)
"""
    here, apart = (
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / how, how], capture_output=True, text=True, timeout=100
        )
        for how in ("here", "apart")
    )
    assert apart.stdout == "None\n", apart.stderr
    assert here.stdout in ("ended with exit code 2\n", "None\n"), here.stderr  # some builds' threads survive
    if here.stdout.startswith("ended"):
        assert "start the run from a fresh process" in (tmp_path / "here" / "stderr.txt").read_text()


def test_options_of_our_own_upstream_are_a_deviation(tmp_path):
    options, data = tmp_path / "bf16.yaml", Data(tmp_path)
    options.write_text("precision: bf16")
    ours = Settings(tmp_path / "run", "pruned_upstream", data, model_config=options)
    assert ours.upstream_deviations == ("the upstream's options in bf16.yaml",)
    assert replace(ours, model_config=None).upstream_deviations == ()
    assert replace(ours, upstream="npc_local").upstream_deviations == ()
