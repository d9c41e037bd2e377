"""Long recordings: what chunks differ from the whole, and what memory and time grow with.

    python -m benchmarks.long_audio FOLDER_OF_SPEECH       results/chunks.*, results/long_audio.*

The model is the demo's teacher (3.1M parameters, trained on self-made speech), since weights that never learned say
nothing about how far attention reaches. Memory is the peak of a process of its own, less what it holds once the model
is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pruned_upstream.errors import DataError
from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import is_onnx, load
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.onnx_file import OnnxEncoder
from pruned_upstream.model.waveforms import SAMPLE_RATE

from .measure import machine, write

MODEL = Path(__file__).parents[1] / "pruned_upstream" / "miniature" / "demo_teacher.safetensors"
CHUNKS, CONTEXTS = (1.0, 5.0, 10.0, 20.0), (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
LENGTHS = (10, 60, 180, 600, 3600)
CHUNK, CONTEXT = 10.0, 4.0
REPEATS = 3


def speech(folder: Path, seconds: float) -> torch.Tensor:
    """Recordings of a folder one after another, mono at 16 kHz."""
    import soundfile

    parts: list[np.ndarray] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".flac", ".ogg", ".mp3", ".opus")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate == SAMPLE_RATE:
            parts.append(samples.mean(1))
        if sum(map(len, parts)) >= seconds * SAMPLE_RATE:
            return torch.from_numpy(np.concatenate(parts))[: round(seconds * SAMPLE_RATE)]
    raise SystemExit(f"{folder} has less than {seconds:.0f} s of speech at {SAMPLE_RATE} Hz")


def differences(encoder: Encoder, wav: torch.Tensor) -> list[dict[str, object]]:
    """Root of the mean squared difference over that of the whole's values, for the first, middle and last states."""
    whole = encoder.extract(wav).hidden_states
    rows = []
    for chunk in CHUNKS:
        for context in CONTEXTS:
            states = encoder.extract(wav, chunk_seconds=chunk, context_seconds=context).hidden_states
            off = [((a - b).norm() / b.norm()).item() for a, b in zip(states, whole, strict=True)]
            work = (min(chunk + 2 * context, len(wav) / SAMPLE_RATE)) / chunk
            named = {"first state": off[0], "middle": off[len(off) // 2], "last": off[-1]}
            rows.append(
                {"chunk s": chunk, "context s": context}
                | {name: f"{100 * value:.1f} %" for name, value in named.items()}
                | {"times the work": round(work, 1)}
            )
    return rows


def measured(model: Path, seconds: int, chunked: bool) -> dict[str, float | str]:
    """Peak memory (MB, above the loaded model) and processor time of one pass, in this process."""
    torch.set_num_threads(1)
    encoder = OnnxEncoder(model) if is_onnx(model) else load(model)
    wav = 0.1 * torch.randn(seconds * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        encoder.extract(wav[:SAMPLE_RATE])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        try:
            if chunked:
                for output in encoder.chunks(wav, CHUNK, CONTEXT):
                    assert output.hidden_states[-1].isfinite().all()
            else:
                encoder.extract(wav)
        except DataError:
            return {"refused": "too long for the memory that is free"}
        taken = time.process_time() - start
    return {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "seconds": taken}


def growth(models: dict[str, Path]) -> list[dict[str, object]]:
    rows = []
    for seconds in LENGTHS:
        for name, model in models.items():
            for chunked in (False, True):
                runs = []
                for _ in range(REPEATS):
                    call = [sys.executable, "-m", "benchmarks.long_audio", "--measure", str(model), str(seconds)]
                    done = subprocess.run(
                        [*call, str(int(chunked))], capture_output=True, text=True, cwd=Path(__file__).parents[1]
                    )
                    if done.returncode:  # killed for its memory
                        runs.append({"refused": f"ended by signal {-done.returncode}"})
                        break
                    runs.append(json.loads(done.stdout.splitlines()[-1]))
                    if "refused" in runs[-1] or seconds >= 600:
                        break
                way = f"chunks of {CHUNK:g} s with {CONTEXT:g} s" if chunked else "whole"
                row = {"seconds": seconds, "computed by": name, "way": way}
                if "refused" in runs[-1]:
                    row |= {"memory MB": runs[-1]["refused"], "processor s": ""}
                else:
                    row |= {
                        "memory MB": round(statistics.median(run["megabytes"] for run in runs)),
                        "processor s": round(statistics.median(run["seconds"] for run in runs), 2),
                    }
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech, for the table of chunks")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        model, seconds, chunked = arguments.measure
        print(json.dumps(measured(Path(model), int(seconds), chunked == "1")))
        return
    torch.set_num_threads(1)
    if arguments.speech is not None:
        with torch.inference_mode():
            rows = differences(load(MODEL), speech(arguments.speech, arguments.seconds))
        write("chunks", rows, machine(seconds=arguments.seconds, speech=arguments.speech.name))
    with tempfile.TemporaryDirectory() as folder:
        deployed = Path(folder) / "teacher.onnx"
        export_onnx(load(MODEL), deployed)
        rows = growth({"torch": MODEL, "onnxruntime": deployed})
    write("long_audio", rows, machine(clock="cpu", repeats=REPEATS))


if __name__ == "__main__":
    main()
