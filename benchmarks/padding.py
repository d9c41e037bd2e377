"""A short clip beside a long one: how far padding moves it in a model with a group norm, and what equal lengths cost.

    python -m benchmarks.padding FOLDER_OF_SPEECH          results/padding.*

The model is the demo's teacher. Clips are the starts of recordings of the folder, each beside the longest one.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.config import SAMPLE_RATE
from pruned_upstream.model.encoder import Encoder

from .long_audio import MODEL
from .measure import machine, race, write

SHORT, LONG = (1.0, 2.0, 4.0, 8.0), 12.0  # seconds
CLIPS = 10
TIMED = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)  # a batch of eight lengths
REPEATS = 5


def recordings(folder: Path, count: int) -> list[torch.Tensor]:
    """`count` recordings spread over the folder's files of at least the longest short clip, and the longest, last."""
    import soundfile

    files = {p: soundfile.info(p).frames for p in sorted(folder.rglob("*")) if p.suffix in (".wav", ".flac", ".ogg")}
    long = max(files, key=lambda path: files[path])
    enough = [path for path, frames in files.items() if frames >= SHORT[-1] * SAMPLE_RATE and path != long]
    if len(enough) < count or files[long] < LONG * SAMPLE_RATE:
        raise SystemExit(f"{folder} has too few recordings of {SHORT[-1]:g} s, or none of {LONG:g} s")
    chosen = [*enough[:: len(enough) // count][:count], long]
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in chosen]


def moved(encoder: Encoder, clip: torch.Tensor, long: torch.Tensor, equal: bool) -> tuple[float, float]:
    """Root of the mean squared difference over that of the clip's values alone: first and last hidden state."""
    alone = encoder.extract(clip).hidden_states
    beside = encoder.extract([clip, long], equal_lengths=equal).hidden_states
    off = [((b[0, : a.size(1)] - a[0]).norm() / a.norm()).item() for a, b in zip(alone, beside, strict=True)]
    return off[0], off[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load(MODEL)
    *clips, long = recordings(arguments.speech, CLIPS)
    long = long[: round(LONG * SAMPLE_RATE)]
    rows = []
    with torch.inference_mode():
        for seconds in SHORT:
            short = [clip[: round(seconds * SAMPLE_RATE)] for clip in clips]
            padded = [moved(encoder, clip, long, equal=False) for clip in short]
            equal = max(moved(encoder, clip, long, equal=True)[1] for clip in short)
            last = [value for _, value in padded]
            rows.append(
                {
                    "clip s": seconds,
                    "first state": f"{100 * statistics.median(value for value, _ in padded):.1f} %",
                    "last": f"{100 * statistics.median(last):.1f} %",
                    "last, least to most": f"{100 * min(last):.1f} to {100 * max(last):.1f} %",
                    "last, equal_lengths": f"{100 * equal:.1f} %",
                }
            )
        batch = [clip[: round(seconds * SAMPLE_RATE)] for clip, seconds in zip(clips, TIMED, strict=False)]
        ways = {
            "padded": lambda: encoder.extract(batch),
            "equal lengths": lambda: encoder.extract(batch, equal_lengths=True),
        }
        padded_time, equal_time = race(ways, repeats=REPEATS, clock="cpu")
    note = (
        f"Medians over {CLIPS} clips beside {LONG:g} s. Eight clips of 1 to 8 s as one batch take "
        f"{1e3 * padded_time.median:.0f} ms padded and {1e3 * equal_time.median:.0f} ms with `equal_lengths` "
        f"(processor time; {1 / equal_time.speedup:.2f} times as long, {1 / equal_time.highest_speedup:.2f} to "
        f"{1 / equal_time.lowest_speedup:.2f} over {REPEATS} rounds)."
    )
    write("padding", rows, machine(clock="cpu", repeats=REPEATS, speech=arguments.speech.name), note=note)


if __name__ == "__main__":
    main()
