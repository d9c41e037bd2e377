"""A gated training step against what it cannot do without: the teacher's forward and a plain step of the student.

`python -m benchmarks.training` writes results/training.*. Both candidates compare the student's hidden states with
the teacher's in the same way; the gated one draws gates, passes them to the student and carries their gradients
back, pays for size and clamps, as the training loop does.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable

import torch

from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.pruning.gates import Gates
from pruned_upstream.pruning.sparsity import Lagrangian, expected_sparsity

from .measure import CLOCKS, machine, race, timing_row, write

SAMPLE_RATE = 16000


def steps(batch: int, seconds: float, device: str) -> dict[str, Callable[[], None]]:
    config = wavlm_base_config()
    teacher = Encoder(config).to(device).eval().requires_grad_(False)
    student = Encoder(config).to(device).train()
    gates, lagrangian = Gates(config).to(device), Lagrangian().to(device)
    weights = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    sizes = torch.optim.AdamW([*gates.parameters(), *lagrangian.parameters()], lr=0.02, fused=True)
    waveforms = torch.randn(batch, round(seconds * SAMPLE_RATE), device=device)

    def distance(gating=None) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(waveforms).hidden_states
        states = student(waveforms, gates=gating).hidden_states
        return sum((a - b).square().mean() for a, b in zip(states, wanted, strict=True))

    def plain() -> None:
        weights.zero_grad()
        distance().backward()
        weights.step()

    def gated() -> None:
        weights.zero_grad()
        sizes.zero_grad()
        sample = gates.sample()
        distance(sample.gates).backward()
        sample.backward()
        lagrangian(expected_sparsity(config, gates.probabilities()), 0.8).backward()
        weights.step()
        sizes.step()
        gates.clamp_()

    return {"teacher forward and plain step": plain, "gated step": gated}


def peak_megabytes(device: str) -> float:
    """Largest memory so far: of the GPU's tensors, or of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    candidates = steps(arguments.batch, arguments.seconds, arguments.device)
    memory = {}
    for name, step in candidates.items():  # the plain step first, so that what the gates add shows
        step()
        memory[name] = round(peak_megabytes(arguments.device))
    timings = race(candidates, repeats=arguments.repeats, clock=arguments.clock, device=arguments.device)
    plain = timings[0]
    rows = [
        timing_row(timing, batch=arguments.batch, seconds=arguments.seconds)
        | {
            "cost": round(1 / timing.speedup, 3),
            "audio seconds a second": round(arguments.batch * arguments.seconds / timing.median, 2),
            "peak MB": memory[timing.name],
        }
        for timing in timings
    ]
    note = f"cost: of a step, in units of '{plain.name}', median over rounds; at most 1.10 is the aim."
    write("training", rows, machine(arguments.device, clock=arguments.clock, repeats=arguments.repeats), note=note)


if __name__ == "__main__":
    main()
