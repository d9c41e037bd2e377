"""Work as jobs: results by name, lost ones named, GPUs as this process sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.files import locked
from pruned_upstream.jobs import LOCK, Failure, Resumable, _own_gpus, run_jobs


def refuse() -> None:
    raise DataError("no speech in corpora/speech")


def test_results_come_by_name_in_the_order_of_the_work(tmp_path):
    told = []
    results = run_jobs(
        {"b": partial(int, "2"), "lost": refuse, "a": partial(int, "1")},
        tmp_path / "jobs",
        "debug",
        {},
        name="test",
        at_once=1,
        ended=lambda name, result: told.append((name, result)),
    )
    assert list(results.items()) == told
    assert results == {"b": 2, "lost": Failure("no speech in corpora/speech"), "a": 1}


def test_a_process_that_dies_is_lost_with_the_end_of_its_log(tmp_path):
    results = run_jobs({"dead": partial(os._exit, 3)}, tmp_path / "jobs", "local", {}, name="test")
    assert isinstance(results["dead"], Failure) and results["dead"].reason


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_what_waits_as_ctrl_c_does_and_is_given_back(tmp_path, name):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_jobs({"a": int}, tmp_path, "debug", {}, name="test", ended=lambda *_: signal.raise_signal(number))
    assert signal.getsignal(number) is before


def test_an_interruption_ends_the_waiting(tmp_path):
    done = []

    def stop(name: str, result: object) -> None:
        done.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs({"a": int, "b": int}, tmp_path / "jobs", "debug", {}, name="test", at_once=1, ended=stop)
    assert done == ["a"]


@pytest.mark.parametrize(
    ("launcher", "parameters", "complaint"),
    [("pbs", {}, "unknown launcher 'pbs'"), ("debug", {"slurm_partitoin": "gpu"}, "submitit refuses")],
)
def test_mistakes_are_sentences(tmp_path, launcher, parameters, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run_jobs({"a": int}, tmp_path, launcher, parameters, name="test")


def test_local_jobs_see_the_gpus_of_this_process(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert _own_gpus("local", {}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert _own_gpus("local", {"gpus_per_node": 1}) == _own_gpus("slurm", {}) == {}
    job = Resumable(partial(os.environ.get, "CUDA_VISIBLE_DEVICES"), _own_gpus("local", {}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as submitit sets it
    assert job() == "2,3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    job = Resumable(partial(os.environ.get, "CUDA_VISIBLE_DEVICES"), _own_gpus("local", {}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert job() is None


LAUNCH = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
import pruned_upstream.jobs
from jobs_work import work
folder, launcher = Path(sys.argv[1]), sys.argv[2]
print(pruned_upstream.jobs.run_jobs({{"one": partial(work, folder)}}, folder / "jobs", launcher, {{}}, name="test"))
"""


def launched(folder: Path, launcher: str, **environment: str) -> subprocess.Popen:
    program = LAUNCH.format(tests=str(Path(__file__).parent))
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "-c", program, folder, launcher],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at Linux's /proc")
def test_a_killed_local_launch_leaves_no_orphan(tmp_path):
    pids = tmp_path / "pids"
    launch = launched(tmp_path, "local")
    wait_for(pids.exists)
    launch.kill()
    launch.wait()
    (job,) = map(int, pids.read_text().split())
    wait_for(lambda: not is_alive(job))

    (tmp_path / "go").touch()
    again = launched(tmp_path, "local")
    assert again.communicate()[0] == "{'one': 'done'}\n"
    assert len(pids.read_text().split()) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at Linux's /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGUSR1", "SIGTERM"])
def test_what_a_terminal_sends_to_everybody_is_the_launchers_business(tmp_path, name):
    """Ctrl-C reaches every process of the session; submitit's would print a traceback each, and kill their jobs."""
    launch = launched(tmp_path, "local")
    wait_for((tmp_path / "pids").exists)
    os.killpg(launch.pid, signal.Signals[name])
    _, said = launch.communicate(timeout=30)
    assert "_local.py" not in said and said.count("Traceback") == 1  # this program's own, of its KeyboardInterrupt
    (job,) = map(int, (tmp_path / "pids").read_text().split())
    assert not is_alive(job)
    assert (tmp_path / "saved").exists()


SBATCH = """#!{python}
import json, os, pathlib, subprocess, sys
queue = pathlib.Path({queue!r})
number = str(100 + len(list(queue.glob("*.log"))))
script = pathlib.Path(sys.argv[1]).read_text()
command = next(line for line in script.splitlines() if line.startswith("srun"))
words = __import__("shlex").split(command)
start = next(i for i, word in enumerate(words) if word.endswith("python") or "python" in word.rpartition("/")[2])
names = {{"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
         "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here", "SUBMITIT_EXECUTOR": "slurm"}}
with open(queue / (number + ".log"), "w") as log:
    job = subprocess.Popen(words[start:], env=os.environ | names, stdout=log, stderr=log, start_new_session=True)
(queue / (number + ".pid")).write_text(str(job.pid))
print("Submitted batch job", number)
"""

SACCT = """#!{python}
import os, pathlib
print("JobID|State|NodeList")
for pid in pathlib.Path({queue!r}).glob("*.pid"):
    alive = os.path.exists("/proc/" + pid.read_text())
    print(pid.stem + "|" + ("RUNNING" if alive else "COMPLETED") + "|here")
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at Linux's /proc")
def test_the_same_command_takes_up_the_slurm_jobs_of_a_killed_launch(tmp_path):
    """SLURM's programs are imitated: sbatch starts the job at once, sacct tells whether it is alive."""
    queue, programs = tmp_path / "queue", tmp_path / "bin"
    queue.mkdir()
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": "#!/bin/sh\n", "scancel": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text.format(python=sys.executable, queue=str(queue)))
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])

    launch = launched(tmp_path, "slurm", PATH=path)
    wait_for((tmp_path / "pids").exists)
    launch.send_signal(signal.SIGKILL)
    launch.wait()
    again = launched(tmp_path, "slurm", PATH=path)
    time.sleep(1.0)
    (tmp_path / "go").touch()
    said, logged = again.communicate()
    assert said == "{'one': 'done'}\n", logged
    assert "job 100 of an earlier launch is waited for" in logged
    assert len((tmp_path / "pids").read_text().split()) == 1
    assert json.loads((tmp_path / "jobs/queued.json").read_text())["one"]["job"] == "100"


def test_two_launches_in_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 0.3)
    with locked(tmp_path, LOCK), pytest.raises(DataError, match="in use by another run"):
        run_jobs({"a": int}, tmp_path, "debug", {}, name="test")
