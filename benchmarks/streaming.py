"""What a chunk of live audio takes at the size of WavLM Base, on one thread.

    python -m benchmarks.streaming                        results/streaming.*

Shapes of the recipe `streaming` (chunks of 0.64 s, 4 s before them) with random weights, for a time does not depend on
them. Each round streams the same 8.3 s through every model in turn; a chunk counts once the history is full. Times
are the processor time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from pruned_upstream.distillation.student import as_streaming
from pruned_upstream.model.config import SAMPLE_RATE, EncoderConfig, wavlm_base_config
from pruned_upstream.model.encoder import Encoder

from . import shapes
from .measure import machine, write

CHUNK, HISTORY = 0.64, 4.0
SHAPES = {
    "dense WavLM Base": wavlm_base_config(),
    "whole heads, 26.6M": shapes.whole_heads(),
    "fine-grained heads, 26.6M": shapes.fine_grained(),
    "channels pruned, 26.6M": shapes.conv_pruned(),
}


def student(config: EncoderConfig, dtype: torch.dtype) -> Encoder:
    torch.manual_seed(0)
    return as_streaming(Encoder(config), CHUNK, HISTORY).eval().to(dtype)


def times(encoder: Encoder, wav: torch.Tensor) -> list[float]:
    """Seconds of each chunk that finds a full history."""
    taken, start = [], time.process_time()
    for _ in encoder.stream([wav]):
        taken.append(time.process_time() - start)
        start = time.process_time()
    return taken[int(HISTORY / CHUNK) + 1 : -1]  # the last one may be short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    wav = 0.1 * torch.randn(round(13 * CHUNK * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    models = {
        (name, kind): student(config, getattr(torch, kind))
        for name, config in SHAPES.items()
        for kind in ("float32", "bfloat16")
    }
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    for number in range(repeats + 1):
        print(f"round {number} of {repeats}", flush=True)
        for key, encoder in models.items():
            chunks = times(encoder, wav)
            if number:  # the first round warms up
                taken[key] += chunks
    rows = []
    for (name, kind), seconds in taken.items():
        middle, worst = statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))]
        rows.append(
            {
                "model": name,
                "type": kind,
                "ms for a chunk": round(1e3 * middle, 1),
                "95 % within ms": round(1e3 * worst, 1),
                "real-time factor": round(middle / CHUNK, 3),
                "delay ms": round(1e3 * (CHUNK + 0.005 + middle)),
            }
        )
    note = (
        "The delay of a chunk's first frame: the chunk, 5 ms of samples behind it, and computing. Real-time factor: "
        "computing over sound."
    )
    here = machine(clock="processor time", repeats=repeats, chunk=f"{CHUNK:g} s", history=f"{HISTORY:g} s")
    write("streaming", rows, here, note=note)


if __name__ == "__main__":
    main()
