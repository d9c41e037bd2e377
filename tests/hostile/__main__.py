"""The long form: `PYTHONPATH=tests python -m hostile --files 10000 --kills 100`. It ends with 1 if anything escaped."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from .fuzz import fuzz

SHOWN = 40


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hostile", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="spoiled files, all formats together")
    parser.add_argument("--kills", type=int, default=100, help="kills at random moments, all commands together")
    parser.add_argument("--pairs", type=int, default=1, help="times that each command is launched as a pair")
    parser.add_argument("--disks", type=int, default=60, help="runs of commands into a full disk")
    parser.add_argument("--commands", help="of which kills and full disks are to be: prune,distill,...; all of them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    say = functools.partial(print, flush=True)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if arguments.files:
            tally = fuzz(arguments.files, place / "files", seed=arguments.seed, say=say)
            say(f"files: {sum(tally.counts.values())}: {dict(tally.counts)}; {len(tally.escapes)} escapes")
            faults += tally.escapes
        if arguments.kills or arguments.disks or arguments.pairs:
            from . import disks, kills, pairs

            wanted = arguments.commands.split(",") if arguments.commands else None
            commands = kills.prepare(place / "sources", wanted)
            if arguments.kills:
                outcome = kills.kill_and_compare(
                    commands, arguments.kills, place / "killed", seed=arguments.seed, say=say
                )
                say(f"kills: {sum(outcome.kills.values())}: {dict(outcome.kills)}; {len(outcome.faults)} faults")
                faults += outcome.faults
            if arguments.pairs:
                both = pairs.launch_pairs(commands, arguments.pairs, place / "pairs", say=say)
                say(f"pairs: {sum(both.kills.values())}: {dict(both.kills)}; {len(both.faults)} faults")
                faults += both.faults
            if arguments.disks:
                full = disks.fill(commands, arguments.disks, place / "full", seed=arguments.seed, say=say)
                say(f"full disks: {sum(full.kills.values())}: {dict(full.kills)}; {len(full.faults)} faults")
                faults += full.faults
    for fault in faults[:SHOWN]:
        say(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
