"""onnxruntime against torch on compact models, in single precision and in int8: `python -m benchmarks.onnx`."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.onnx_file import OnnxEncoder

from . import shapes
from .measure import CLOCKS, machine, race, timing_row, write

SAMPLE_RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["whole_heads", "fine_grained"])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    wavs = [torch.randn(arguments.seconds * SAMPLE_RATE)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            encoder = Encoder(getattr(shapes, shape)()).eval()
            path = Path(folder) / f"{shape}.safetensors"
            save(path, encoder)
            reports = {
                "onnxruntime": export_onnx(encoder, path.with_suffix(".onnx")),
                "onnxruntime, int8": export_onnx(encoder, path.with_suffix(".int8.onnx"), int8=True),
            }
            encoders = {"torch": encoder} | {name: OnnxEncoder(report.path) for name, report in reports.items()}
            runs = {name: partial(model.extract, wavs) for name, model in encoders.items()}
            with torch.inference_mode():
                timings = race(runs, repeats=arguments.repeats, clock=arguments.clock)
            for timing in timings:
                report = reports.get(timing.name)
                file = {"MB": round((report.bytes if report else path.stat().st_size) / 1e6, 1)}
                if report:
                    file |= {"largest difference": f"{report.largest:.1e}", "relative": f"{max(report.relative):.1e}"}
                rows.append(timing_row(timing, shape=shape.replace("_", " "), seconds=arguments.seconds) | file)
    note = (
        "Differences are of hidden states from torch's: largest over largest magnitude; root mean square of the worst."
    )
    write("onnx", rows, machine(clock=arguments.clock, repeats=arguments.repeats), note=note)


if __name__ == "__main__":
    main()
