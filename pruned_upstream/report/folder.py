"""What a finished training leaves for whoever opens its folder: a page about it, and what each file is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..files import atomic_files
from ..readme import write_readme
from ..superb.results import FILE_NAME, read_results
from ..training.loop import STATE_FILE
from .html import PAGE
from .page import status, write_page
from .runs import read_run

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
    "report.json": "what came out, what was learned from, what was left out, what was changed on the way",
    "recipe.yaml": "the recipe of the latest launch, every key spelled out: `pruned-upstream prune recipe.yaml ...`",
    "launches.json": "of each launch: command, commit, versions, the step it started from, hashes of its inputs",
    "metrics.jsonl": "the curves, one line per report",
    "tensorboard": "the same curves: `tensorboard --logdir tensorboard`",
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


def explain(folder: Path) -> int:
    """Write the page and the README of a run's folder.

    Returns:
        Bytes of the training states, which only a run that goes on needs.

    Raises:
        PrunedUpstreamError: a file is damaged or cannot be written.
    """
    run, scored = read_run(folder), folder / SCORES
    states = sorted(folder.rglob(STATE_FILE))
    size = sum(path.stat().st_size for path in states)
    about = f"A run of `pruned-upstream {run.method_name}`: {status(run)}."
    contents, then = list(_contents(folder)), []
    if states:
        names = ", ".join(f"`{path.relative_to(folder)}`" for path in states)
        contents.append((names, f"the training's state, {size / 1e6:.0f} MB: see below"))
        then.append(
            "The same command with a larger `optimisation.steps` and `--amend` extends the run from its state. If it "
            "is not to be extended, the state may be deleted; the same command would then begin anew."
        )
    with atomic_files(folder) as unfinished:
        write_page(unfinished / PAGE, [run], [read_results(scored)] if (scored / FILE_NAME).is_file() else [])
        write_readme(unfinished, run.name, about, contents, *then)
    return size


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    for pattern, meaning in CONTENTS.items():
        there = {PAGE} if pattern == PAGE else {path.name for path in folder.glob(pattern)}  # the page is written last
        yield from ((f"`{name}`", meaning) for name in sorted(there))
