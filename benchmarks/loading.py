"""How fast recordings become batches, beside how fast training takes them.

    python -m benchmarks.loading --data LibriSpeech

One loader process is timed; `data.workers` of them work side by side. The paper's run is 200 000 steps of 24 recordings
of at most 15.6 s in 36 hours: at most 578 seconds of sound a second.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pruned_upstream.model.config import SAMPLE_RATE
from pruned_upstream.training.corpus import find_corpus
from pruned_upstream.training.data import Batches
from pruned_upstream.training.recipe import Data

from .measure import machine, write

PAPER_RATE = 200_000 * 24 * 15.6 / (36 * 3600)  # seconds of sound a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="batches a round")
    arguments = parser.parse_args()
    corpus = find_corpus([str(arguments.data)], min_samples=400)
    batches = Batches(corpus, Data(train=[str(arguments.data)], batch_utterances=arguments.batch), seed=0)
    rates = []
    for round_number in range(arguments.rounds + 1):
        start, sound = time.process_time(), 0
        for step in range(round_number * arguments.steps, (round_number + 1) * arguments.steps):
            sound += sum(len(wav) for part in batches[step] for wav in part.wavs)
        rates.append(sound / SAMPLE_RATE / (time.process_time() - start))
    median = sorted(rates[1:])[arguments.rounds // 2]  # the first round warms the disk's cache
    row = {
        "recordings": len(corpus.utterances),
        "format": ", ".join(sorted({utterance.path.suffix for utterance in corpus.utterances})),
        "seconds of sound a second": round(median),
        "range": f"{min(rates[1:]):.0f} to {max(rates[1:]):.0f}",
        "times the paper's run": round(median / PAPER_RATE, 1),
    }
    write("loading", [row], machine(clock="cpu", rounds=arguments.rounds), note="One loader process.\n")


if __name__ == "__main__":
    main()
