"""What gates, pairing and the price of size add to a distillation step, at WavLM Base size.

    python -m benchmarks.pruning_step --clock cpu
    python -m benchmarks.pruning_step --device cuda --precision bf16 --batch 24 --seconds 15.6

The first candidate is the least that any distillation does: the teacher's forward pass, and forward, backward and
update of an ungated student on the same batch.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import SAMPLE_RATE, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.training.corpus import Corpus
from pruned_upstream.training.data import Batch, Batches
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.prune import PruneRecipe, build_objective
from pruned_upstream.training.recipe import resolve_recipe

from .measure import CLOCKS, machine, race, timing_row, write

LIMIT = 1.10  # of the plain step's time


def recipe(folder: Path, arguments: argparse.Namespace) -> PruneRecipe:
    tree = {
        "teacher": str(folder / "teacher.safetensors"),
        "data": {"train": str(folder)},
        "sparsity": {"target": 0.8},
        "optimisation": {"steps": 1000, "precision": arguments.precision},
        "run": {"folder": str(folder / "run"), "device": arguments.device},
    }
    return resolve_recipe(tree, PruneRecipe)


def plain_step(
    teacher: Encoder, student: Encoder, batch: Batch, *, device: torch.device, bf16: bool
) -> Callable[[], None]:
    """Teacher forward, student forward and backward against four of its layers, clipping and the same optimiser."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-4, fused=True)
    waveforms, lengths = student.prepare(batch.wavs)

    def run() -> None:
        inputs = waveforms.to(device), lengths.to(device)
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                wanted = teacher(*inputs).hidden_states
            found = student(*inputs).hidden_states
        sum((found[i].float() - wanted[i].float()).square().mean() for i in (3, 6, 9, 12)).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimiser.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    samples = round(arguments.seconds * SAMPLE_RATE)
    batch = Batch([torch.randn(samples) for _ in range(arguments.batch)], samples, [], [], 0, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder / "teacher.safetensors", Encoder(wavlm_base_config()))
        asked = recipe(folder, arguments)
        objective = build_objective(asked, Processes(device=device))
        trainer = Trainer(objective, Batches(Corpus([]), asked.data, seed=0), asked, Processes(device=device))
        student = Encoder(wavlm_base_config()).to(device).train()
        plain = plain_step(objective.teacher, student, batch, device=device, bf16=arguments.precision == "bf16")
        candidates = {"teacher forward and plain student step": plain, "pruning step": lambda: trainer.step(0, [batch])}
        timings = race(candidates, repeats=arguments.repeats, clock=arguments.clock, device=arguments.device)
    rows = [timing_row(timing, batch=arguments.batch, seconds=arguments.seconds) for timing in timings]
    ratio = 1 / timings[1].speedup
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = f"A pruning step takes {ratio:.3f} times the plain one (limit {LIMIT}); both peak at {peak:.1f} GiB."
    if device.type == "cuda":
        note += f" GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB."
    settings = {"clock": arguments.clock, "repeats": arguments.repeats, "precision": arguments.precision}
    name = "pruning_step" if device.type == "cpu" else f"pruning_step_{device.type}"
    write(name, rows, machine(arguments.device, **settings), note=note)


if __name__ == "__main__":
    main()
