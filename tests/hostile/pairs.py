"""Every command launched twice at the same moment, into one folder. What is there afterwards must be what one
undisturbed run leaves, and each launch ends well, or with a sentence and code 2 (trainings and releases: one of them).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from .kills import PATIENCE_SECONDS, Command, Outcome, contents, start

WELL = (0, 3)  # 3: a target was missed
REFUSED = 2


def launch_pairs(
    commands: list[Command], rounds: int, place: Path, *, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Launch each command so often as a pair; `say` hears of each."""
    outcome = Outcome()
    for command in commands:
        folder = place / command.name
        start(command, folder).communicate(timeout=PATIENCE_SECONDS)
        expected = contents(folder)
        shutil.rmtree(folder)
        for _ in range(rounds):
            pair = [start(command, folder) for _ in range(2)]
            said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in pair]
            codes = sorted(process.returncode for process in pair)
            found = contents(folder)
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            outcome.kills[f"{command.name}, codes {codes}"] += 1
            say(f"{command.name} twice: codes {codes}, {'equal' if not odd else f'differs in {odd}'}")
            won = sum(code in WELL for code in codes)
            if odd or not won or any(code not in (*WELL, REFUSED) for code in codes) or "Traceback" in "".join(said):
                outcome.faults.append(f"{command.name} twice: {codes}, {odd}, {[words[-400:] for words in said]}")
            shutil.rmtree(folder)
    return outcome
