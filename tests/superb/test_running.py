"""Running: one folder per task, resume after a kill at any point, locks, failures.

Stages are the processes that they are, with a few lines in the place of s3prl (`imitation.py`); s3prl itself runs in
`test_superb_with_s3prl.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pruned_upstream.errors import ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.files import locked
from pruned_upstream.readme import README
from pruned_upstream.superb import running, stage, worker
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.results import read_results
from pruned_upstream.superb.running import Settings, run

fork = multiprocessing.get_context("fork")


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """KS and IC on minimal corpora, s3prl imitated."""
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, str(Path(__file__).with_name("imitation.py"))))
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
        soundfile.write(file, [0.0] * (16000 if file.name == "hum.wav" else 160), 16000)
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

    monkeypatch.setattr(worker, "COMMAND", ("no-such-program",))  # nothing is run again
    assert run(settings).results == report.results == read_results(settings.folder)


def test_the_folder_explains_itself_from_its_beginning(settings):
    def readme() -> str:
        return (settings.folder / README).read_text(encoding="utf-8")

    running.claim(settings)
    assert "0 of ten tasks finished" in readme()
    run(settings)
    assert "2 of ten tasks finished (ks, ic)" in readme()
    told = set(re.findall(r"^\| `([^`]+)`", readme(), flags=re.M))
    there = {path.name for path in settings.folder.iterdir() if path.name[0] != "."} - {README}
    assert there <= told and told - there == {"report.html"}
    command = next(line for line in readme().splitlines() if line.startswith("    pruned-upstream superb"))
    assert shlex.split(command)[2:] == [
        "-u", "fbank", "--data", str(settings.data.root.resolve()), "--output", str(settings.folder)
    ]  # fmt: skip


def test_another_task_joins_the_results_of_the_folder(settings):
    run(replace(settings, tasks=("ks",)))
    assert set(run(replace(settings, tasks=("ic",))).results.tasks) == {"ks", "ic"}


def test_results_that_come_while_others_are_written_are_not_lost(settings, monkeypatch):
    """Two jobs that end together: what the second adds while the first waits for the lock must be in the file."""
    run(replace(settings, tasks=("ks",)))
    run(replace(settings, tasks=("ic",)))
    later = (settings.folder / "ic/results.yaml").rename(settings.folder / "ic/later")
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 10.0)
    with locked(settings.folder, ".results.lock"):
        first = threading.Thread(target=running.collect_results, args=(settings.folder,))
        first.start()
        time.sleep(0.2)
        later.rename(settings.folder / "ic/results.yaml")
    first.join()
    assert set(read_results(settings.folder).tasks) == {"ks", "ic"}


def test_a_failing_task_does_not_stop_the_others_and_leaves_its_last_words(settings):
    (settings.folder / "ks").mkdir(parents=True)
    (settings.folder / "ks/fail").touch()
    report = run(settings)
    assert list(report.results.tasks) == ["ic"]
    assert report.failures["ks"].reason == "ks/train: RuntimeError: the dog ate it"
    assert report.failures["ks"].log_tail[-1] == "RuntimeError: the dog ate it"

    (settings.folder / "ks/fail").unlink()
    assert set(run(settings).results.tasks) == {"ks", "ic"}
    assert stdout_of(settings, "ks/train") == ["dev acc: 0.1", "dev acc: 0.2", "dev acc: 0.3"]


def wait_for(path: Path) -> list[int]:
    for _ in range(1500):
        if path.exists() and path.read_text():
            return [int(word) for word in path.read_text().split()]
        time.sleep(0.02)
    raise TimeoutError(path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at Linux's /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_it_is_killed_its_stages_die_too_and_the_run_goes_on_where_it_was(settings, end):
    settings.folder.mkdir()
    run(replace(settings, tasks=("ic",)))
    (settings.folder / "hang").touch()
    parent = fork.Process(target=run, args=(settings,))
    parent.start()
    stage_and_its_loader = wait_for(settings.folder / "ks/train/hanging")
    os.kill(parent.pid, end)
    parent.join()
    for _ in range(200):
        if not any(map(is_alive, stage_and_its_loader)):
            break
        time.sleep(0.02)
    assert not any(map(is_alive, stage_and_its_loader))
    assert list(read_results(settings.folder).tasks) == ["ic"]

    (settings.folder / "hang").unlink()
    report = run(settings)
    assert report.failures == {}
    assert set(report.results.tasks) == {"ks", "ic"}
    # states-1 and states-2 were kept, so that only step 3 was left to do
    assert stdout_of(settings, "ks/train") == ["dev acc: 0.1", "dev acc: 0.2", "dev acc: 0.3"]
    # what the rest took is not what all steps took: contradictions.py would not believe it
    assert report.results.tasks["ks"].seconds is None and report.results.tasks["ic"].seconds is not None


def test_a_killed_worker_is_named_with_its_signal(settings):
    (settings.folder / "ks").mkdir(parents=True)
    (settings.folder / "ks/die").touch()
    report = run(replace(settings, tasks=("ks",)))
    assert report.failures["ks"].reason.startswith("ks/train: killed by SIGKILL")
    assert "not enough memory" in report.failures["ks"].reason
    assert report.failures["ks"].log_tail == ()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("full", "No space left on device; mend that"), ("lost", "train/a.wav: No such file or directory; mend that")],
)
def test_a_stage_says_the_error_that_ended_it_and_not_what_another_thread_printed_last(settings, fault, said):
    (settings.folder / "ks").mkdir(parents=True)
    (settings.folder / "ks" / fault).touch()
    failure = run(replace(settings, tasks=("ks",))).failures["ks"]
    assert failure.reason.startswith("ks/train: ") and said in failure.reason
    assert failure.log_tail == ()
    assert "Traceback" in (settings.folder / "ks/train" / worker.STDERR).read_text()  # the log keeps it


def test_short_stages_of_one_task_share_a_process_and_two_tasks_do_not(settings, monkeypatch):
    def processes() -> list[str]:
        stages = ("ks/train", "ks/test", "ic/train", "ic/test")
        return [(settings.folder / stage / worker.STDERR).read_text() for stage in stages]

    run(settings)
    ks_train, ks_test, ic_train, ic_test = processes()
    assert ks_train == ks_test != ic_train == ic_test

    shutil.rmtree(settings.folder)
    monkeypatch.setattr(running, "SHORT_STEPS", 2)
    run(settings)
    assert len(set(processes())) == 4


def test_processes_that_are_shared_serve_every_task_and_the_next_run_and_then_end(settings):
    def processes(folder: Path) -> set[str]:
        return {file.read_text() for file in folder.rglob(worker.STDERR)}

    again = replace(settings, folder=settings.folder.with_name("again"))
    with worker.Workers(shared=True) as workers:
        run(settings, workers=workers)
        run(again, workers=workers)
        ((process, _),) = workers.idle
        assert process.process.poll() is None
    assert process.process.poll() is not None
    stages = processes(settings.folder / "ks") | processes(settings.folder / "ic")
    assert len(stages) == 1 and stages == processes(again.folder / "ks")


def test_two_runs_in_one_folder_are_refused(settings):
    with locked(settings.folder / "ks"), pytest.raises(DataError, match="in use by another run"):
        run(settings)


def test_of_two_launches_at_once_the_second_waits_a_little_and_finds_everything_done(settings, monkeypatch):
    """Or is refused, where the first takes longer. Never do both run a stage: the second could start none."""
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 60.0)
    (settings.folder / "ks").mkdir(parents=True)
    (settings.folder / "ks" / "slow").touch()
    first = fork.Process(target=run, args=(settings,))
    first.start()
    while not (settings.folder / "ks" / "train" / worker.STDOUT).exists():
        assert first.is_alive()
        time.sleep(0.01)
    monkeypatch.setattr(worker, "COMMAND", ("no-such-program",))
    report = run(settings)
    first.join()
    assert first.exitcode == 0 and report.failures == {} and set(report.results.tasks) == {"ks", "ic"}


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
        ({"learning_rates": {"ks": (0.0,)}}, "must hold numbers above 0"),
        ({"checkpoint": Path("nowhere.ckpt")}, "does not exist"),
    ],
)
def test_impossible_settings_are_refused(settings, change, words):
    with pytest.raises(PrunedUpstreamError, match=words):
        replace(settings, **change)


def test_several_stages_run_side_by_side(settings):
    for task in settings.tasks:
        (settings.folder / task).mkdir(parents=True)
        (settings.folder / task / "slow").touch()
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
    assert worker.tail(log) == ("first", "last")
    assert worker.tail(tmp_path / "absent") == ()


def test_an_interrupted_checkpoint_is_not_seen(tmp_path, monkeypatch):
    """s3prl takes the last states-N.ckpt there is, so half of one must never carry that name."""
    import torch

    class Unpicklable:
        def __reduce__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torch.save)  # put back behind this test
    stage._save_whole_checkpoints()
    torch.save({"Step": 1}, tmp_path / "states-1.ckpt")
    with pytest.raises(KeyboardInterrupt):
        torch.save([torch.zeros(3), Unpicklable()], str(tmp_path / "states-2.ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == ["states-1.ckpt"]
    assert torch.load(tmp_path / "states-1.ckpt") == {"Step": 1}


def test_options_of_our_own_upstream_are_a_deviation(tmp_path):
    options, data = tmp_path / "bf16.yaml", Data(tmp_path)
    options.write_text("precision: bf16")
    ours = Settings(tmp_path / "run", "pruned_upstream", data, model_config=options)
    assert ours.upstream_deviations == ("the upstream's options in bf16.yaml",)
    assert replace(ours, model_config=None).upstream_deviations == ()
    assert replace(ours, upstream="npc_local").upstream_deviations == ()


@pytest.mark.parametrize("seed", [-5, 1 << 32, 99999999999])
def test_a_seed_that_numpy_cannot_take_is_refused(settings, seed):
    with pytest.raises(ConfigError, match=f"seed is {seed}; it must lie between 0 and 4294967295"):
        replace(settings, seed=seed)
