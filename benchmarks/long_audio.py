"""Long recordings: what chunks differ from the whole, and what memory and time grow with.

    python -m benchmarks.long_audio                        results/long_audio.*
    python -m benchmarks.long_audio FOLDER_OF_SPEECH       results/chunks.*, too

The model is the demo's teacher (3.1M parameters, trained on self-made speech), since weights that never learned say
nothing about how far attention reaches. Memory is the peak of a process of its own, less what it holds once the model
is loaded and has heard a second; the system's record of the peak is reset there (Linux), or importing torch would hide
what short recordings take.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pruned_upstream.errors import DataError
from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.config import SAMPLE_RATE
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.header import is_onnx
from pruned_upstream.model.onnx_file import OnnxEncoder

from .measure import machine, write

MODEL = Path(__file__).parents[1] / "pruned_upstream" / "miniature" / "demo_teacher.safetensors"
CHUNKS, CONTEXTS = (1.0, 5.0, 10.0, 20.0), (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
LENGTHS = (10, 30, 60, 120)
CHUNK, CONTEXT = 10.0, 4.0


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


def memory(name: str) -> float:
    """Megabytes that this process holds now (VmRSS), or has held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def measured(model: Path, seconds: int, chunked: bool) -> dict[str, float | str]:
    """Peak memory (MB, above the loaded model) and processor time of one pass, in this process."""
    torch.set_num_threads(1)
    encoder = OnnxEncoder(model) if is_onnx(model) else load(model)
    wav = 0.1 * torch.randn(seconds * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        encoder.extract(wav[:SAMPLE_RATE])
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        before = memory("VmRSS")
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
    return {"megabytes": memory("VmHWM") - before, "seconds": taken}


def growth(models: dict[str, Path], lengths: Sequence[int], repeats: int) -> list[dict[str, object]]:
    rows = []
    for seconds in lengths:
        for name, model in models.items():
            for chunked in (False, True):
                runs = [in_own_process(model, seconds, chunked) for _ in range(repeats)]
                refused = next((run["refused"] for run in runs if "refused" in run), None)
                way = f"chunks of {CHUNK:g} s with {CONTEXT:g} s" if chunked else "whole"
                row: dict[str, object] = {"seconds": seconds, "computed by": name, "way": way}
                if refused is not None:
                    row |= {"memory MB": refused, "processor s": ""}
                else:
                    row |= {
                        "memory MB": round(statistics.median(run["megabytes"] for run in runs)),
                        "processor s": round(statistics.median(run["seconds"] for run in runs), 2),
                    }
                rows.append(row)
                print(row, flush=True)
    return rows


def in_own_process(model: Path, seconds: int, chunked: bool) -> dict[str, float | str]:
    """What `measured` gives in a fresh process. Raises SystemExit: it failed, and not for memory."""
    call = [sys.executable, "-m", "benchmarks.long_audio", "--measure", str(model), str(seconds), str(int(chunked))]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode == -signal.SIGKILL:
        return {"refused": "killed for its memory"}
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech, for the table of chunks")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="seconds, for the table of memory")
    parser.add_argument("--repeats", type=int, default=5, help="processes per row; the median counts")
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
        rows = growth({"torch": MODEL, "onnxruntime": deployed}, arguments.lengths, arguments.repeats)
    note = "Memory is above that of the loaded model. The samples are noise, which takes what speech takes."
    write("long_audio", rows, machine(clock="cpu", repeats=arguments.repeats), note=note)


if __name__ == "__main__":
    main()
