"""The long form: `PYTHONPATH=tests python -m hostile --files 10000 --kills 100`. It ends with 1 if anything escaped."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .fuzz import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hostile", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="spoiled files, all formats together")
    parser.add_argument("--kills", type=int, default=100, help="kills at random moments, all commands together")
    parser.add_argument("--disks", type=int, default=60, help="runs of commands into a full disk")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    escaped = 0
    with tempfile.TemporaryDirectory() as name:
        if arguments.files:
            tally = fuzz(arguments.files, Path(name), seed=arguments.seed, say=lambda line: print(line, flush=True))
            escaped += len(tally.escapes)
            print(f"files: {sum(tally.counts.values())}, {dict(tally.counts)}, {len(tally.escapes)} escapes", flush=True)
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
