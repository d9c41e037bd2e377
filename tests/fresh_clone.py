"""README's commands in a fresh clone, in their order, as a newcomer types them: `python tests/fresh_clone.py FOLDER`.

FOLDER is new and takes the clone of what is committed here. Nothing but git, make and Python is asked for. `--long`
runs the demo in its long form, too. At the end stands a line for each command, and what README shows of the output
that was printed otherwise. Exit code 1: a command failed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROGRAM = "pruned-upstream"
CLIP = "runs/demo/corpora-short/speech_commands_test_set_v0.01/right"

# the beginning of a command -> why it is not run
SKIPPED = {
    "prune": "needs the published WavLM Base and LibriSpeech",
    "superb": "needs that run and the ten corpora",
}
LONG = "demo"


def readme() -> str:
    """The page."""
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str, page: str | None = None) -> list[str]:
    """The blocks of code in a language, of a page or of README."""
    return re.findall(rf"```{language}\n(.*?)```", readme() if page is None else page, flags=re.S)


def commands(page: str | None = None) -> list[str]:
    """The lines of the shell blocks; one that goes on behind a backslash is joined."""
    joined = "".join(blocks("sh", page)).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def words(command: str) -> list[str]:
    """A command's words without its comment and without the program's path: `["demo", "--short"]`."""
    first, *rest = shlex.split(command, comments=True)
    return rest if first.endswith(PROGRAM) else [first, *rest]


def why_not(command: str, *, long: bool) -> str | None:
    """Why a command is not run; None if it is."""
    if words(command) == [LONG] and not long:
        return "a quarter of an hour; --long runs it"
    return SKIPPED.get(words(command)[0])


def differences(printed: str) -> list[str]:
    """Rows of README's example of the output that were printed otherwise, each as `shown; printed`."""
    found = []
    rows = [_cells(line) for line in printed.splitlines()]
    for line in "".join(blocks("text")).splitlines():
        label, *values = _cells(line)
        same_label = [row for row in rows if row and (row[0] == label or (row[0] and label.startswith(row[0])))]
        if label and not any(values == row[1 : 1 + len(values)] for row in same_label):
            found.append(f"{label} {values}; {same_label}")
    return found


def _cells(line: str) -> list[str]:
    """The cells of a row that rich has drawn; none of another line."""
    return [cell.strip() for cell in re.split("[│┃]", line)[1:-1]] or [""]


def main() -> None:
    """Clone, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    clone = arguments.folder
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    told, failed, everything = [], False, ""

    def run(name: str, command: list[str]) -> None:
        nonlocal failed, everything
        print(f"== {name}", flush=True)
        began = time.monotonic()
        done = subprocess.run(command, cwd=clone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout, flush=True)
        everything += done.stdout
        failed |= done.returncode != 0
        told.append(f"{time.monotonic() - began:6.0f} s  rc {done.returncode}  {name}")

    for command in commands():
        reason = why_not(command, long=arguments.long)
        name = " ".join(command.partition("#")[0].split())
        if reason is not None:
            told.append(f"  not run       {name}: {reason}")
            continue
        run(name, ["sh", "-c", command])
    shutil.copy(sorted((clone / CLIP).glob("*.wav"))[0], clone / "speech.wav")
    for number, block in enumerate(blocks("python"), 1):
        run(f"Python, block {number}", [str(clone / ".venv/bin/python"), "-c", block])
    print("\n".join(["", *told, *(f"README shows otherwise: {row}" for row in differences(everything))]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
