"""A compact model in fewer bits, from waveform to hidden states: torch against onnxruntime with 8-bit convolutions.

    python -m benchmarks.low_precision

onnxruntime's files: in single precision; with 8-bit matrix products whose inputs are quantised as they come, as
`export --int8` writes them; and with 8-bit convolutions and matrix products whose inputs' ranges were measured before,
on noise of speech's loudness (QDQ). Differences are of the last hidden state, from torch's in single precision.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from pruned_upstream.export import export_onnx, noise
from pruned_upstream.model.encoder import Encoder

from . import shapes
from .measure import CLOCKS, machine, race, timing_row, write

SAMPLE_RATE = 16000
CALIBRATION_SECONDS = (1.0, 2.0, 3.0)


def session(path: Path, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if optimised is not None:  # constants folded, and the shape rules of quantisation met
        options.optimized_model_filepath = str(optimised)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def last_state(encoder: Encoder, wav: torch.Tensor) -> np.ndarray:
    return encoder.extract([wav]).hidden_states[-1].float().numpy()


def answer(opened: onnxruntime.InferenceSession, wav: torch.Tensor) -> np.ndarray:
    return opened.run(None, feed(wav))[-2]  # the last output is the padding mask


def feed(wav: torch.Tensor) -> dict[str, np.ndarray]:
    return {"waveforms": wav[None].numpy(), "lengths": np.array([len(wav)])}


def quantised(single: Path, folder: Path) -> dict[str, Path]:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([feed(wav) for wav in noise(*CALIBRATION_SECONDS)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    folded = folder / "folded.onnx"
    session(single, folded)
    dynamic, convolutions, static = (folder / f"{name}.onnx" for name in ("dynamic", "convolutions", "static"))
    unsigned = {"weight_type": QuantType.QUInt8, "per_channel": True}
    quantize_dynamic(folded, dynamic, op_types_to_quantize=["MatMul", "Gemm"], **unsigned)
    options = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    quantize_static(folded, convolutions, Reader(), op_types_to_quantize=["Conv"], **options)
    quantize_static(folded, static, Reader(), op_types_to_quantize=["Conv", "MatMul", "Gemm"], **options)
    return {"int8 products (dynamic)": dynamic, "int8 convolutions (static)": convolutions, "all int8 (static)": static}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["fine_grained"])
    parser.add_argument("--seconds", type=int, nargs="+", default=[5, 15])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in arguments.shapes:
        encoder = Encoder(getattr(shapes, shape)()).eval()
        half = copy.deepcopy(encoder).bfloat16()
        with tempfile.TemporaryDirectory() as name:
            single = export_onnx(encoder, Path(name) / "single.onnx").path
            files = {"single precision": single} | quantised(single, Path(name))
            sessions = {f"onnxruntime, {label}": session(path) for label, path in files.items()}
            for seconds in arguments.seconds:
                (wav,) = noise(seconds)
                runs = {
                    "torch, single precision": partial(last_state, encoder, wav),
                    "torch, bfloat16": partial(last_state, half, wav.bfloat16()),
                }
                for label, opened in sessions.items():
                    runs[label] = partial(answer, opened, wav)
                with torch.inference_mode():
                    wanted = runs["torch, single precision"]()
                    timings = race(runs, repeats=arguments.repeats, clock=arguments.clock)
                    for timing in timings:
                        found = runs[timing.name]()
                        difference = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
                        row = timing_row(timing, shape=shape.replace("_", " "), seconds=seconds)
                        rows.append(row | {"difference, %": round(100 * difference, 2)})
                write("low_precision", rows, machine(clock=arguments.clock, repeats=arguments.repeats))


if __name__ == "__main__":
    main()
