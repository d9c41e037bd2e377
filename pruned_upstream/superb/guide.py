"""The README of a run folder of the tasks: what each file is, how the run goes on, what can be done with it.

It is written when the run begins and after every task, so that an interrupted run explains itself, too.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..readme import PAGE, write_readme
from .metrics import TASK_METRICS
from .results import RunResults

# what the folder may hold, the most wanted first; tasks stand between them
CONTENTS = {
    PAGE: "results, plot, what was chosen on the way; it needs no other file and no network",
    "results.yaml": "every finished task: its metrics, whether they are official, and if not, why",
    "predict.zip": "predictions for the leaderboard",
    "submission.yaml": "what the leaderboard's form asks for",
    "run.yaml": "what is measured: upstream, checkpoint and its hash, data, seed, versions",
    "upstream": "of building the upstream once: its layers and parameters, and what was printed",
    "submitit": "logs of the jobs",
}


def write_guide(folder: Path, identity: Mapping[str, Any], results: RunResults | None = None) -> None:
    """Write the README.

    Args:
        identity: what `run.yaml` says.
        results: of the finished tasks; None before there are any.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    done = list(results.tasks) if results is not None else []
    begun = [task for task in TASK_METRICS if task not in done and (folder / task).is_dir()]
    said = f"{len(done)} of ten tasks finished" + (f" ({', '.join(done)})" if done else "")
    said += f", {', '.join(begun)} begun" if begun else ""
    contents = [(f"`{name}`", meaning) for name, meaning in CONTENTS.items() if _is_there(folder, name)]
    contents += [(f"`{task}`", f"{'finished' if task in done else 'begun'} task") for task in [*done, *begun]]
    write_readme(
        folder,
        f"{identity['model']} on SUPERB",
        f"A run of `pruned-upstream superb`: {said}.",
        contents,
        "In the folder of a task: `config.yaml` is s3prl's configuration, `results.yaml` the result. Each folder "
        "with a `stdout.txt` is a run of s3prl: metrics there, bars and tracebacks in `stderr.txt`, the trained head "
        "in `states-STEP.ckpt`, the command in `finished.yaml`.",
        "## How it goes on",
        "The same command, after an interruption or a failure; finished tasks and stages are not run again, a training "
        "goes on from its last checkpoint. As far as it is known here, with the options of the first call:",
        f"    {_command(folder, identity)}",
        "Other tasks join with `--tasks`. To run a task anew, delete its folder.",
        "## What can be done with it",
        f"    pruned-upstream score {_quoted(folder)} --compare\n"
        f"    pruned-upstream predict {_quoted(folder / (done or list(TASK_METRICS))[0])} CLIP.wav\n"
        f"    pruned-upstream submission {_quoted(folder)} --data {_quoted(identity['data'])}",
    )


def _is_there(folder: Path, name: str) -> bool:
    return name == PAGE or (folder / name).exists()  # the page is written last


def _command(folder: Path, identity: Mapping[str, Any]) -> str:
    words = ["pruned-upstream", "superb", "-u", identity["upstream"]]
    words += ["-k", identity["checkpoint"]] if identity["checkpoint"] is not None else []
    words += ["-g", identity["model_config"]] if identity["model_config"] is not None else []
    return shlex.join([*words, "--data", str(identity["data"]), "--output", str(folder)])


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
