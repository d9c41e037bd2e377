"""What a finished training leaves for whoever opens its folder: a page about it, and what each file is."""

from __future__ import annotations

from pathlib import Path

from ..files import atomic_files
from ..readme import PAGE, write_readme
from ..superb.results import FILE_NAME, read_results
from ..training.guide import SCORES, contents
from ..training.state import STATE_FILE
from .page import status, write_page
from .runs import read_run


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
    here, then = list(contents(folder, soon=(PAGE,))), []
    if states:
        names = ", ".join(f"`{path.relative_to(folder)}`" for path in states)
        here.append((names, f"the training's state, {size / 1e6:.0f} MB: see below"))
        then.append(
            "The same command with a larger `optimisation.steps` and `--amend` extends the run from its state. If it "
            "is not to be extended, the state may be deleted; the same command would then begin anew."
        )
    with atomic_files(folder) as unfinished:
        write_page(unfinished / PAGE, [run], [read_results(scored)] if (scored / FILE_NAME).is_file() else [])
        write_readme(unfinished, run.name, about, here, *then)
    return size
