"""What the machine refuses is told in a sentence: a folder without permission, a home, memory."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import random_encoder, tiny_config
from training.conftest import LENGTHS, write_noise
from training.launching import ROOT, read_state

from pruned_upstream.errors import DataError
from pruned_upstream.machine import fault
from pruned_upstream.model.checkpoint import save
from pruned_upstream.superb.results import RunResults, TaskResult, write_results

# runs each command of the list in this one process, and tells its code and its last words
SCRIPT = """
import contextlib, io, json, sys
from pruned_upstream import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pruned-upstream", *arguments]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, said.getvalue()[-2000:]]), flush=True)
"""
SPEECH = ["data.batch_utterances=4", "data.max_seconds=0.15", "data.workers=0", "run.device=cpu"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A teacher, a model, recordings and results."""
    for number, samples in enumerate(LENGTHS):
        write_noise(tmp_path / "speech" / f"{number}.wav", samples, seed=number)
    save(tmp_path / "teacher.safetensors", random_encoder(tiny_config(num_layers=6)), provenance={"teacher": "x"})
    tasks = {"ks": TaskResult({"acc": 91.5}, True)}
    write_results(tmp_path / "results", RunResults("x", "pruned_upstream", parameters=3, tasks=tasks))
    return tmp_path


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "forbidden"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def as_nobody_special() -> list[str]:
    """What makes a process of root's obey the permissions of files."""
    if os.geteuid():
        return []
    drop = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("root, and no setpriv to do without its powers")
    return command


def run(arguments: list[list[str]], **environment: str) -> list[tuple[int, str]]:
    ended = subprocess.run(
        [*as_nobody_special(), sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


def test_a_folder_without_permission(place: Path, forbidden: Path) -> None:
    teacher, speech = str(place / "teacher.safetensors"), str(place / "speech")
    training = [f"teacher={teacher}", f"data.train={speech}", *SPEECH]
    inside = f"{forbidden}/x"
    commands = [
        ["prune", "demo", *training, f"run.folder={inside}"],
        ["distill", "demo_distil", *training, f"run.folder={forbidden}"],
        ["parp", "parp_demo", *training, f"run.folder={inside}"],
        ["pretrain", "demo_teacher", *training[1:], f"run.folder={inside}"],
        ["sweep", "demo", *training, f"run.folder={inside}", "--sparsity", "0.3,0.5"],
        ["repair", teacher, *training[:2], "repair.seconds=1", "--out", f"{inside}.safetensors"],
        ["convert", teacher, f"{inside}.safetensors"],
        ["convert", teacher, str(forbidden)],
        ["release", teacher, "--out", inside, "--name", "x"],
        ["export", teacher, "--onnx", f"{inside}.onnx"],
        ["info", teacher, "--plot", f"{inside}.png"],
        ["score", str(place / "results"), "--out", str(forbidden)],
        ["superb", teacher, "--data", speech, "--tasks", "ks", "--output", inside],
    ]
    for command, (code, said) in zip(commands, run(commands), strict=True):
        assert code == 2, (command, said)
        assert "ermission denied" in said and str(forbidden) in said and "Traceback" not in said, (command, said)
        assert "together" not in said and "unfinished" not in said, said
    assert list(forbidden.iterdir()) == []


def test_a_home_that_cannot_be_written(place: Path, forbidden: Path) -> None:
    """matplotlib, torch and the hub keep caches there."""
    teacher = str(place / "teacher.safetensors")
    commands = [
        ["info", teacher, "--plot", str(place / "layers.png")],
        ["release", teacher, "--out", str(place / "release"), "--name", "x"],
    ]
    for command, (code, said) in zip(commands, run(commands, HOME=str(forbidden)), strict=True):
        assert code == 0 and "Traceback" not in said, (command, said)
    assert (place / "layers.png").stat().st_size and (place / "release" / "README.md").stat().st_size


def start(place: Path, *options: str) -> subprocess.Popen[str]:
    fixed = ["demo_distil", f"teacher={place / 'teacher.safetensors'}", f"data.train={place / 'speech'}", *SPEECH]
    return subprocess.Popen(
        [sys.executable, "-m", "pruned_upstream.cli", "distill", *fixed, f"run.folder={place / 'run'}", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_data_loading_process_that_is_killed(place: Path) -> None:
    """As the kernel does where memory runs out."""
    process = start(place, "data.workers=1", "optimisation.steps=1000000", "run.checkpoint_every=1")
    try:
        state, loaders = place / "run" / "state.pt", f"/proc/{process.pid}/task/{process.pid}/children"
        while not state.exists() or not Path(loaders).read_text():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        for pid in Path(loaders).read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "a data loading process was killed" in said and "goes on from the last state" in said
    assert read_state(place / "run")["step"] > 0


def test_memory_that_is_not_there(place: Path) -> None:
    """Less than the machine says that it has, as in a container or a job of SLURM's."""
    import resource

    write_noise(place / "speech" / "long.wav", 64_000, seed=9)
    limit = 1 << 30
    fixed = ["demo_distil", f"teacher={place / 'teacher.safetensors'}", f"data.train={place / 'speech'}", *SPEECH]
    more = ["data.max_seconds=4", "data.batch_utterances=8", f"run.folder={place / 'run'}", "optimisation.steps=3"]
    ended = subprocess.run(
        [sys.executable, "-m", "pruned_upstream.cli", "distill", *fixed, *more],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    assert "there is not enough memory" in ended.stderr


def test_paths_that_lead_nowhere_and_pictures_without_a_kind(place: Path) -> None:
    (place / "loop").symlink_to(place / "loop")
    model, loop = str(place / "teacher.safetensors"), str(place / "loop")
    (place / "file").touch()
    commands = {
        "Symlink loop": ["report", loop, "--out", str(place / "page.html")],
        "loop": ["superb", model, "--data", loop, "--tasks", "ks", "--output", f"{place}/x"],
        "has no ending of a picture": ["info", model, "--plot", str(place / "layers")],
        "is a file where a folder is needed": ["superb", model, "--data", str(place), "--output", str(place / "file")],
    }
    for words, (code, said) in zip(commands, run(list(commands.values())), strict=True):
        assert code == 2 and re.search(words, said) and "Traceback" not in said, said
    assert not (place / "layers").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/a"), "/x/a: No space left on device; mend that"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is not enough memory"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "a data loading process was killed"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "a data loading process was killed"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "a data loading process was killed"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (
            FileNotFoundError(
                "Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
                "\nFileNotFoundError: [Errno 2] No such file or directory: '/x/b.wav'\n"
            ),
            "/x/b.wav: No such file or directory; mend that",
        ),
        (DataError("no speech"), "no speech"),
        (ValueError("x"), None),
    ],
)
def test_whose_fault_it_is(error: Exception, said: str | None) -> None:
    found = fault(error)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_names_that_are_not_utf8_and_a_terminal_with_few_characters(place: Path) -> None:
    """Said in a sentence, in which such characters are escaped; what a folder is called does not matter."""
    folder = os.fsencode(place) + b"/caf\xe9"
    os.mkdir(folder)
    shutil.copy(place / "teacher.safetensors", folder + b"/\xe9.safetensors")
    shutil.copy(place / "teacher.safetensors", place / "\u00e9.safetensors")
    said = rb"caf\xe9/\xe9.safetensors is not UTF-8"
    commands = [
        ([b"info", folder + b"/\xe9.safetensors"], said, "utf-8:strict"),
        ([b"convert", b"teacher.safetensors", folder + b"/\xe9.safetensors"], said, "utf-8:strict"),
        ([b"score", b"results", b"--out", folder], rb"caf\xe9/", "utf-8:strict"),
        ([b"convert", "\u00e9.safetensors".encode(), "\u00e8.safetensors".encode()], rb"wrote \xe8.", "ascii:strict"),
    ]
    code = "import sys; from pruned_upstream import cli; sys.argv[0] = 'pruned-upstream'; cli.main()"
    for command, words, encoding in commands:
        environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
        ended = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert words in ended.stdout and b"Traceback" not in ended.stdout, ended.stdout[-800:]
