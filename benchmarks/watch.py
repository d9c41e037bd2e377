"""Whether a change made anything slower: the working tree against a commit, interleaved in one run.

    python -m benchmarks.watch                  against HEAD: what is not committed yet
    python -m benchmarks.watch e50ad61          against another commit
    python -m benchmarks.watch --only load      what has "load" in its name; --short for tiny models

Both trees are asked in turn, there and back, on one thread, for processor time. Each round gives one ratio, above 1
where the working tree is faster; the table has their median and range. Where valgrind is installed, `import` is counted
in instructions, which no other job on the machine disturbs. What one of the trees cannot run is said, not left out.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from . import watched

HERE = Path(__file__).resolve().parents[1]
COMMANDS = {
    "import pruned_upstream": ["-c", "import pruned_upstream"],
    "import load": ["-c", "from pruned_upstream import load"],
    "superb stage's start": ["-m", "pruned_upstream.run_downstream", "--help"],
}
NOTICEABLE = 1.05  # a ratio whose whole range is beyond this is pointed out


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The tree of a commit in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tree"
        git = ["git", "-C", str(HERE)]
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=True)


def compile_all(tree: Path) -> None:
    """Bytecode for both, as an installed package has it; else one tree may be compiled at each import."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tree / "pruned_upstream")], check=True)


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}


class Child:
    """A process that runs one measure of one tree whenever it is asked.

    Raises:
        RuntimeError: the tree cannot run it; the last line of what it printed says why.
    """

    def __init__(self, tree: Path, measure: str, short: bool) -> None:
        program = [sys.executable, "-W", "ignore", watched.__file__, measure, "short" if short else "full"]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(program, env=environment(tree), cwd=tree, **options)
        if self.process.stdout.readline().strip() != "READY":
            said = self.process.stderr.read().strip().splitlines()
            self.close()
            raise RuntimeError(said[-1] if said else "it ended without a word")

    def __call__(self) -> float:
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()


def of_command(tree: Path, arguments: Sequence[str]) -> Callable[[], float]:
    """Processor seconds of a process that starts anew each time."""

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *arguments], env=environment(tree), cwd=tree, capture_output=True)
        if done.returncode:
            raise RuntimeError(done.stderr.decode().strip().splitlines()[-1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def instructions(tree: Path, arguments: Sequence[str]) -> float:
    with tempfile.NamedTemporaryFile() as out:
        program = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", sys.executable, *arguments]
        seeded = environment(tree) | {"PYTHONHASHSEED": "0"}
        done = subprocess.run(program, env=seeded, cwd=tree, capture_output=True, text=True)
        counted = [line for line in done.stderr.splitlines() if "Collected :" in line]
        if done.returncode or not counted:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return float(counted[0].rsplit(":", 1)[1])


def compare(base: Callable[[], float], now: Callable[[], float], rounds: int) -> list[tuple[float, float]]:
    """(base, now) of each round; who goes first changes from round to round."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = now()
            pairs.append((base(), second))
        else:
            pairs.append((base(), now()))
    return pairs


def row(name: str, pairs: Sequence[tuple[float, float]], unit: str = "ms", scale: float = 1e3) -> str:
    ratios = sorted(before / after for before, after in pairs)
    before, after = (statistics.median(values) * scale for values in zip(*pairs, strict=True))
    verdict = ""
    if len(ratios) > 1:
        verdict = "faster" if ratios[0] > NOTICEABLE else "SLOWER" if ratios[-1] < 1 / NOTICEABLE else ""
    median = statistics.median(ratios)
    cells = (name, f"{before:,.1f}", f"{after:,.1f} {unit}", f"{median:.3f}", f"{ratios[0]:.3f} to {ratios[-1]:.3f}")
    return "| " + " | ".join((*cells, verdict)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    with checked_out(arguments.commit) as base:
        for tree in (base, HERE):
            compile_all(tree)
        log = ["git", "-C", str(base), "log", "-1", "--format=%h %s"]
        print("before:", subprocess.run(log, capture_output=True, text=True, check=True).stdout)
        print("| | before | now | ratio | range | |", "|---|---|---|---|---|---|", sep="\n")
        for name, pairs, unit in measured(base, arguments):
            if arguments.only in name:
                try:
                    print(row(name, pairs(), *unit), flush=True)
                except RuntimeError as error:
                    print(f"| {name} | not compared: {error} |", flush=True)


Pairs = list[tuple[float, float]]


def measured(base: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Pairs], tuple]]:
    """Name, how to get the pairs, and the unit where it is not milliseconds."""
    for name in watched.measures(arguments.short, base):
        yield name, partial(of_children, base, name, arguments), ()
    for name, command in COMMANDS.items():
        yield name, partial(compare, of_command(base, command), of_command(HERE, command), arguments.rounds), ()
    if shutil.which("valgrind"):
        command = COMMANDS["import pruned_upstream"]
        count = (partial(instructions, base, command), partial(instructions, HERE, command))
        yield "import pruned_upstream, instructions", partial(compare, *count, 1), ("M", 1e-6)


def of_children(base: Path, name: str, arguments: argparse.Namespace) -> Pairs:
    with ExitStack() as stack:
        children = [stack.enter_context(closing(Child(tree, name, arguments.short))) for tree in (base, HERE)]
        return compare(*children, arguments.rounds)


if __name__ == "__main__":
    main()
