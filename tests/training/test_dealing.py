"""However a batch is dealt out to processes and micro-batches, the numbers are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training.launching import finish, launch, read_metrics, read_state

from pruned_upstream.training.prune import run_prune

STEPS = 4
# Adam divides by the gradient's own size: where a gradient is zero but for rounding (a key's bias, say) its updates
# would be rounding errors blown up. A larger eps makes them as small as they are.
EPS = 1e-3
DROPOUT = {"dropout.hidden": 0.2, "dropout.attention": 0.1}


def assert_same_run(folder: Path, reference: Path) -> None:
    """Equal but for the order of sums: every metric of every step (losses, pairs, sparsity, gate means, gradient
    norms), every weight, and Adam's moving average of every gradient, those of the gates among them."""
    rows, wanted_rows = read_metrics(folder), read_metrics(reference)
    assert len(rows) == len(wanted_rows) == STEPS
    for row, wanted in zip(rows, wanted_rows, strict=True):
        assert row == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    state, wanted_state = read_state(folder), read_state(reference)
    torch.testing.assert_close(state["objective"], wanted_state["objective"], rtol=1e-5, atol=1e-6)
    averages = zip(state["optimiser"]["state"].values(), wanted_state["optimiser"]["state"].values(), strict=True)
    for average, wanted in averages:
        torch.testing.assert_close(average["exp_avg"], wanted["exp_avg"], rtol=1e-4, atol=1e-6)


def test_processes_and_parts_compute_what_one_process_does(recipe, tmp_path: Path) -> None:
    def make(name: str, **changes: Any) -> Any:
        options = {"optimisation.steps": STEPS, "optimisation.eps": EPS, "run.folder": str(tmp_path / name)}
        return recipe(**options | changes)

    # noise of dropout belongs to a part, so that runs with it agree where the parts are the same
    processes = launch(make("processes"), make("noisy_processes", **DROPOUT), folder=tmp_path, processes=2)
    run_prune(make("whole"))
    run_prune(make("parts", **{"optimisation.accumulation": 2}))
    run_prune(make("noisy_parts", **{"optimisation.accumulation": 2} | DROPOUT))
    finish(processes)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert_same_run(tmp_path / "processes", tmp_path / "whole")
    assert_same_run(tmp_path / "noisy_processes", tmp_path / "noisy_parts")
    first, noisy = read_metrics(tmp_path / "parts")[0], read_metrics(tmp_path / "noisy_parts")[0]
    assert first["distillation"] != pytest.approx(noisy["distillation"], rel=1e-3)


@pytest.mark.parametrize("options", [{"distillation.pairing": "fixed"}, {"distillation.pairing": "v3"}])
def test_parts_agree_with_the_whole_in_every_pairing(recipe, tmp_path: Path, options: dict[str, Any]) -> None:
    options = options | {"optimisation.steps": STEPS, "optimisation.eps": EPS}
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")}))
    # seven recordings in batches of four: the three parts of the second batch hold one recording each
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "parts"), "optimisation.accumulation": 3}))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_parts_without_recordings_change_nothing(recipe, tmp_path: Path) -> None:
    options = {"optimisation.steps": STEPS, "optimisation.eps": EPS, "data.batch_utterances": 2}
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")}))
    run_prune(recipe(**options | {"run.folder": str(tmp_path / "parts"), "optimisation.accumulation": 3}))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
