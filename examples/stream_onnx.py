"""Stream a recording through an ONNX encoder with onnxruntime alone: no torch, no C.

    pruned-upstream export compact.safetensors --onnx compact.onnx
    python examples/stream_onnx.py compact.onnx speech.wav

The encoder attends to the whole of its input, so it is fed overlapping windows; of each window the middle is kept,
where it has seen context on both sides. The first frame of a window waits longest: for the chunk, for the context
behind it, and for the computing. docs/encoder.md says how far such frames are from those of the whole recording.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

SAMPLE_RATE = 16000
FRAME = 320  # samples per frame


def windows(wav: Path, chunk: int, context: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Windows of `chunk` frames with `context` frames on both sides, less at the ends of the recording.

    Yields:
        samples of the window; frames to skip at its start; frames to keep (the last window keeps all it has).
    """
    with soundfile.SoundFile(wav) as file:
        if file.samplerate != SAMPLE_RATE or file.channels != 1:
            raise SystemExit(f"{wav} is not mono at {SAMPLE_RATE} Hz")
        for start in range(0, file.frames, chunk * FRAME):
            before = min(context * FRAME, start)
            file.seek(start - before)
            # 80 samples more, for a frame sees 400
            samples = file.read(before + (chunk + context) * FRAME + 80, dtype="float32")
            if len(samples) - before >= 400:
                yield samples, before // FRAME, chunk


def open_model(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def stream(session: onnxruntime.InferenceSession, wav: Path, *, chunk: int, context: int) -> Iterator[list[np.ndarray]]:
    """All L + 1 hidden states of `wav`, up to `chunk` frames (frames, d) at a time."""
    names = [output.name for output in session.get_outputs() if output.name.startswith("hidden_state_")]
    for samples, skip, keep in windows(wav, chunk, context):
        lengths = np.array([len(samples)], dtype=np.int64)
        states = session.run(names, {"waveforms": samples[None], "lengths": lengths})
        yield [state[0, skip : skip + keep] for state in states]


def latency(chunk: int, context: int, computing: float) -> float:
    """Seconds from a sound to its frame, at most: the first of a chunk waits for all samples that its window reads."""
    return ((chunk + context) * FRAME + 80) / SAMPLE_RATE + computing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("wav", type=Path)
    parser.add_argument("--chunk", type=float, default=1.0, help="seconds")
    parser.add_argument("--context", type=float, default=1.0, help="seconds on each side")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    session = open_model(arguments.model, arguments.threads)
    chunk, context = (round(seconds * SAMPLE_RATE / FRAME) for seconds in (arguments.chunk, arguments.context))
    frames, taken = 0, []
    start = time.perf_counter()
    for states in stream(session, arguments.wav, chunk=chunk, context=context):
        taken.append(time.perf_counter() - start)
        frames += len(states[-1])
        print(f"\r{frames} frames of {len(states)} hidden states of {states[-1].shape[1]}", end="", flush=True)
        start = time.perf_counter()
    if not taken:
        raise SystemExit(f"{arguments.wav} is shorter than a frame")
    median, longest = statistics.median(taken), max(taken)
    print(f": {sum(taken):.2f} s for {frames * FRAME / SAMPLE_RATE:.1f} s of sound")
    print(
        f"latency: {latency(chunk, context, median):.3f} s, at most {latency(chunk, context, longest):.3f} s "
        f"(of it computing: {1e3 * median:.0f} ms, at most {1e3 * longest:.0f} ms)"
    )
    if longest > chunk * FRAME / SAMPLE_RATE:
        print("computing took longer than the chunk's sound: it does not keep up")


if __name__ == "__main__":
    main()
