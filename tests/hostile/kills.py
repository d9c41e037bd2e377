"""Commands killed at random moments, and begun again until they end: what they leave must equal what an undisturbed
run leaves, bit for bit (one thread; files that hold times, commands or durations are compared by their names alone).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import yaml

from pruned_upstream.model.safe_loading import allowed_by_torch

ROOT = Path(__file__).parents[2]
LENGTHS = (2400, 1711, 900, 2000, 1333, 3100, 640)
TRIES = 60  # launches of one run
PATIENCE_SECONDS = 300
# times, durations and command lines
UNEQUAL = ("launches.json", "metrics.jsonl", "headers.json", "recipe.yaml", "report.json", "finished.yaml", ".lock")
# logs, and what s3prl names after the moment
LEFT_OUT = re.compile(
    r".*\.lock|jobs/.*|.*tfevents.*|.*(stdout\.txt|stderr\.txt|log\.log)|.*(args|config)_[\d-]+\.yaml"
)
# what a shell reads as 130; behind `-m` Python ends by SIGINT where the interruption met a text that was being executed
INTERRUPTED = (130, -signal.SIGINT)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, which begins as `source`. `arguments(folder)` follow `pruned-upstream`.

    weight: kills in relation to those of other commands.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    source: Path | None = None
    weight: int = 1


@dataclass
class Outcome:
    """Kills and what differed afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass
class Undisturbed:
    """What a command leaves that nobody killed, and how long it took when that was last seen."""

    contents: dict[str, str]
    seconds: float


def prepare(place: Path, wanted: Collection[str] | None = None) -> list[Command]:
    """Recordings, a tiny teacher and a tiny model, and the commands that are killed: all, or those that are wanted."""
    import torch
    from tiny import random_encoder, tiny_config

    from pruned_upstream.model.checkpoint import save
    from pruned_upstream.superb.results import RunResults, TaskResult, write_results

    torch.set_num_threads(1)
    speech = place / "speech"  # whose names are those of transcripts, too
    speech.mkdir(parents=True)
    for number, samples in enumerate(LENGTHS):
        wav = np.random.default_rng(number).normal(scale=0.1, size=samples)
        soundfile.write(speech / f"{number}.wav", wav, 16000)
    (speech / "a.trans.txt").write_text("".join(f"{number} AB A\n" for number in range(len(LENGTHS))))
    teacher, model = place / "teacher.safetensors", place / "model.safetensors"
    save(teacher, random_encoder(tiny_config(num_layers=6)), provenance={"teacher": "x"})
    save(model, random_encoder(tiny_config(num_layers=2)), provenance={"teacher": "x"})
    shared = {
        "data.batch_utterances": 4,
        "data.max_seconds": 0.15,
        "data.workers": 0,
        "optimisation.steps": 12,
        "run.log_every": 3,
        "run.checkpoint_every": 2,
        "run.device": "cpu",
        "data.train": speech,
        "teacher": teacher,
    }

    def training(method: str, recipe: str, *options: str, without: str = "", **changes: object) -> Command:
        keys = shared | {k.replace("__", "."): v for k, v in changes.items()}
        settings = [f"{key}={value}" for key, value in keys.items() if key != without]
        return Command(method, lambda folder: [method, recipe, *settings, f"run.folder={folder}", *options], weight=4)

    parp = training("parp", "parp_demo", data__labels="letters", data__test=speech, decoding__beam=3)
    trained, results = place / "trained", place / "results"
    start(parp, trained).communicate()
    tasks = {"ks": TaskResult({"acc": 91.5}, True)}
    write_results(results, RunResults("x", "pruned_upstream", parameters=3, tasks=tasks))
    shape = {"channels": 16, "layers": 2, "dim": 24, "heads": 4, "ffn": 40, "conv_pos": 8, "conv_pos_groups": 4}

    commands = [
        *(_superb(place, model) if wanted is None or "superb" in wanted else []),
        training("prune", "demo", second_stage__steps=4),
        training("distill", "demo_distil"),
        parp,
        training(
            "pretrain",
            "demo_teacher",
            without="teacher",
            masking__units=4,
            masking__fit_batches=2,
            masking__front_end_steps=4,
            masking__start=0.3,
            masking__span=2,
            **{f"shape__{key}": value for key, value in shape.items()},
        ),
        training("sweep", "demo", "--sparsity", "0.3,0.5", "--launcher", "local", optimisation__steps=4),
        Command("decode", lambda folder: ["decode", str(folder), "decoding.beam=2", "--name", "x"], source=trained),
        Command(
            "repair",
            lambda folder: (
                ["repair", str(teacher), f"teacher={teacher}", f"data.train={speech}", "repair.seconds=1"]
                + ["--out", str(folder / "repaired.safetensors")]
            ),
        ),
        Command("score", lambda folder: ["score", str(results), "--compare", "--out", str(folder / "tables")]),
        Command("convert", lambda folder: ["convert", str(teacher), str(folder / "out.safetensors")]),
        Command("release", lambda folder: ["release", str(model), "--out", str(folder / "release"), "--name", "x"]),
        Command("export", lambda folder: ["export", str(model), "--onnx", str(folder / "model.onnx")]),
        Command("info", lambda folder: ["info", str(model), "--plot", str(folder / "layers.png")]),
        Command("report", lambda folder: ["report", str(trained), "--out", str(folder / "page.html")]),
    ]
    return [command for command in commands if wanted is None or command.name in wanted]


def _superb(place: Path, model: Path) -> list[Command]:
    """One task on self-made data, where s3prl is. Its training is one step: s3prl's own trainings go on from a
    checkpoint with other batches, so that longer ones may end elsewhere."""
    if any(importlib.util.find_spec(module) is None for module in ("s3prl", "espeakng_loader", "soxr")):
        return []
    from pruned_upstream.miniature import build

    build(place / "corpora", scale="tiny", workers=1)
    fixed = ["superb", str(model), "--data", str(place / "corpora"), "--tasks", "ks", "--steps", "1", "--device", "cpu"]
    return [Command("superb", lambda folder: [*fixed, "--loader-workers", "0", "--output", str(folder)], weight=4)]


def kill_and_compare(
    commands: list[Command], kills: int, place: Path, *, seed: int = 0, say=lambda line: None
) -> Outcome:
    """Kill until there were so many kills, dealt to the commands by weight; `say` hears a line about each run."""
    outcome, rng = Outcome(), random.Random(seed)
    undisturbed: dict[str, Undisturbed] = {}
    for command in list(commands):
        folder = place / command.name  # the same for all, since recipes hold it
        started = time.monotonic()
        ended = start(command, folder).communicate(timeout=PATIENCE_SECONDS)[0]
        seconds = time.monotonic() - started
        undisturbed[command.name] = Undisturbed(contents(folder), seconds)
        shutil.rmtree(folder)
        if not undisturbed[command.name].contents:
            outcome.faults.append(f"{command.name} does not run: {ended[-800:]}")
            commands.remove(command)
    turns: Counter[str] = Counter()
    by_command: Counter[str] = Counter()
    while by_command.total() < kills and commands:
        command = min(commands, key=lambda each: (by_command[each.name] + turns[each.name] / 10) / each.weight)
        turns[command.name] += 1
        turn = turns.total()
        folder = place / command.name
        known = len(outcome.faults)
        killed = _run_killed(command, folder, undisturbed[command.name], rng, outcome)
        by_command[command.name] += killed
        found, expected = contents(folder), undisturbed[command.name].contents
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if odd:
            outcome.faults.append(f"{command.name}, turn {turn}, after {killed} kills: {', '.join(odd)} differ")
        say(f"{command.name}: {killed} kills, {'equal' if not odd else f'differs in {odd}'}")
        for fault in outcome.faults[known:]:
            say(f"  {fault}")
        shutil.rmtree(folder)
    return outcome


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file; of those in `UNEQUAL` that they can be read. Locks, logs and event files are left out.

    What is left of unfinished files counts as a file that should not be there.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or LEFT_OUT.fullmatch(name):
            continue
        if path.suffix in (".onnx", ".html", ".png", ".pdf", ".svg"):  # hold names, times and durations of the moment
            found[name] = "there"
        elif path.name in UNEQUAL:
            found[name] = _readable(path)
        elif path.name == "results.yaml":
            found[name] = re.sub(r"seconds: \S+", "", path.read_text())
        elif path.name == "results.csv":
            rows = csv.DictReader(path.read_text().splitlines())
            found[name] = str([{key: row[key] for key in row if key != "milliseconds"} for row in rows])
        elif path.name == "times.json":
            found[name] = str(sorted(json.loads(path.read_text())))  # the shapes that were measured
        elif path.suffix in (".pt", ".ckpt"):
            found[name] = _state_digest(path)
        else:
            data = path.read_bytes()
            found[name] = hashlib.sha256(_in_order(data) if path.suffix == ".safetensors" else data).hexdigest()
    return found


def _state_digest(path: Path) -> str:
    """Of every tensor and number in it; how long it took, and how long the text that says so is, are left out."""
    import torch

    digest = hashlib.sha256()

    def add(name: str, node: object) -> None:
        if isinstance(node, dict):
            for key in sorted(node, key=str):
                add(f"{name}.{key}", node[key])
        elif isinstance(node, list | tuple):
            for number, value in enumerate(node):
                add(f"{name}.{number}", value)
        elif isinstance(node, torch.Tensor):
            digest.update(name.encode() + node.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif not any(word in name for word in ("second", "hours", "metrics_bytes")):
            digest.update(f"{name} {node!r}".encode())

    with allowed_by_torch(argparse.Namespace):  # s3prl's options
        add("", torch.load(path, weights_only=True))
    return digest.hexdigest()


def _in_order(data: bytes) -> bytes:
    """A model file with the keys of its header sorted, since the library writes metadata in an order of the moment; and
    without the commit, which whoever works on the package meanwhile changes."""
    if len(data) < 8:
        return b"cut off" + data
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if "provenance" in metadata:
        origin = json.loads(metadata["provenance"])
        metadata["provenance"] = {name: origin[name] for name in sorted(origin) if not name.endswith("commit")}
    return json.dumps(header, sort_keys=True).encode() + data[8 + length :]


def _readable(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".json":
        json.loads(text)
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        return str([{name: row[name] for name in sorted(row) if name != "seconds_per_step"} for row in rows])
    else:
        yaml.safe_load(text)
    return "readable"


def _run_killed(command: Command, folder: Path, undisturbed: Undisturbed, rng: random.Random, outcome: Outcome) -> int:
    """Launch until the command ends by itself, and kill most of the launches on their way."""
    killed = 0
    for launch in range(TRIES):
        seconds, started = undisturbed.seconds, time.monotonic()
        process = start(command, folder)
        spare = launch > 6 or rng.random() < 0.15  # it must come to its end some time
        try:
            output, _ = process.communicate(timeout=PATIENCE_SECONDS if spare else seconds * rng.uniform(0.2, 1.1))
        except subprocess.TimeoutExpired:
            chosen = rng.choice(SIGNALS)
            os.killpg(process.pid, chosen)
            try:
                output, _ = process.communicate(timeout=PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                outcome.faults.append(f"{command.name} did not end after {chosen.name}")
            killed += 1
            outcome.kills[f"{command.name}, {chosen.name}"] += 1
            odd_end = process.returncode not in (-chosen, *INTERRUPTED, 0, 3)
            if ("Traceback" in output or odd_end) and chosen != signal.SIGKILL:
                outcome.faults.append(f"{command.name} after {chosen.name}: {process.returncode}, {output[-600:]}")
            continue
        if killed == 0:  # a machine that others use is not always as fast as it was
            undisturbed.seconds = time.monotonic() - started
        if process.returncode in (0, 3) or "holds" in output:  # 3: a target was missed; release: it is complete
            return killed
        outcome.faults.append(f"{command.name}, launch {launch}: code {process.returncode}, {output[-600:]}")
        return killed
    outcome.faults.append(f"{command.name} did not come to an end in {TRIES} launches")
    return killed


def start(command: Command, folder: Path) -> subprocess.Popen[str]:
    """Launch the command as a process group of its own."""
    if command.source is not None and not folder.exists():
        shutil.copytree(command.source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "pruned_upstream.cli", *command.arguments(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
