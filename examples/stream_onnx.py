"""Stream a recording through an ONNX encoder with onnxruntime alone: no torch, no C.

    pruned-upstream export compact.safetensors --onnx compact.onnx
    python examples/stream_onnx.py compact.onnx speech.wav

The encoder attends to the whole of its input, so it is fed overlapping windows; of each window the middle is kept,
where it has seen context on both sides. A window's frames come `chunk + context` seconds after their sound.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

SAMPLE_RATE = 16000
FRAME = 320  # samples a frame


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


def stream(session: onnxruntime.InferenceSession, wav: Path, *, chunk: int, context: int) -> Iterator[np.ndarray]:
    """The last hidden state of `wav`, up to `chunk` frames (frames, d) at a time."""
    states = [output.name for output in session.get_outputs() if output.name.startswith("hidden_state_")]
    for samples, skip, keep in windows(wav, chunk, context):
        lengths = np.array([len(samples)], dtype=np.int64)
        (state,) = session.run([states[-1]], {"waveforms": samples[None], "lengths": lengths})
        yield state[0, skip : skip + keep]


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
    start, frames = time.perf_counter(), 0
    for features in stream(session, arguments.wav, chunk=chunk, context=context):
        frames += len(features)
        print(f"\r{frames} frames of {features.shape[1]}", end="", flush=True)
    print(f": {time.perf_counter() - start:.2f} s for {frames * FRAME / SAMPLE_RATE:.1f} s of sound")


if __name__ == "__main__":
    main()
