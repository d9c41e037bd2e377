"""The README of a run's folder: what each file is, and how the run goes on.

It is written when a launch begins, so that a run that was killed explains itself; `report.folder` writes it anew when
the run is over.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from ..readme import PAGE, write_readme
from .metrics_log import METRICS_FILE, TENSORBOARD
from .provenance import LAUNCHES_FILE, RECIPE_FILE, REPORT_FILE
from .state import STATE_FILE

SCORES = "superb"

# what a run's folder may hold, the most wanted first; docs/runs.md says the same
CONTENTS = {
    "compact.safetensors": "the model: `pruned_upstream.load`, `-k` of s3prl's runner, `pruned-upstream info`",
    "sparsity_*": "the models of the other sizes",
    "parp.safetensors": "the encoder, stored as the weights that live",
    "head.safetensors": "the layer from hidden states to letters or phones",
    "teacher.safetensors": "the model",
    "first_stage.safetensors": "the model as it was ahead of the second stage",
    PAGE: "numbers and figures; it needs no other file and no network",
    REPORT_FILE: "what came out, what was learned from, what was left out, what was changed on the way",
    RECIPE_FILE: "the recipe of the latest launch, every key spelled out: `pruned-upstream prune recipe.yaml ...`",
    LAUNCHES_FILE: "of each launch: command, commit, versions, the step it started from, hashes of its inputs",
    METRICS_FILE: "the curves, one line per report",
    TENSORBOARD: "the same curves: `tensorboard --logdir tensorboard`",
    "sizes.json": "what each of several sizes costs and keeps",
    "latency.json": "times of the parts on this machine, for `sparsity.scope=latency`",
    "clusters.json": "which teacher layers go together",
    "targets.pt": "of `pretrain`: what the hidden frames are taught by",
    "hypotheses": "of `parp`: what was recognised",
    "evaluations": "of `parp`: later decodings",
    "headers.json": "what the recordings' headers said, so that they need not be opened again",
    "front_end": "the stage ahead of the first, a run of its own",
    "second_stage": "the second stage, a run of its own",
    "round*": "a round of finetuning, a run of its own",
    SCORES: "scores on SUPERB's tasks",
}


def contents(folder: Path, soon: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """What lies in a run's folder, or will soon: names in Markdown, and what each is."""
    for pattern, meaning in CONTENTS.items():
        names = {path.name for path in folder.glob(pattern)} | ({pattern} & {*soon})
        yield from ((f"`{name}`", meaning) for name in sorted(names))


def write_begun(folder: Path) -> None:
    """Write the README of a run, or of a stage of one, that begins or goes on.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    state = f"`{STATE_FILE}`", "what the next launch goes on from; without it a run begins anew"
    write_readme(
        folder,
        folder.resolve().name,
        "A training of `pruned_upstream`, not finished when this was written: at the start of its latest launch.",
        [*contents(folder, soon=(RECIPE_FILE, LAUNCHES_FILE, METRICS_FILE, TENSORBOARD)), state],
        "## How it goes on",
        "The same command goes on from the last state, after an interruption or a kill, too; the last command in "
        f"`{LAUNCHES_FILE}` is it. How far the run is:",
        f"    pruned-upstream report {shlex.quote(str(folder))}",
        f"The model, `{REPORT_FILE}` and a page `{PAGE}` come at the end; this text is then written anew.",
    )
