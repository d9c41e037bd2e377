"""Compact models on one thread of a CPU: torch, onnxruntime and OpenVINO, in single precision, bfloat16 and 8 bits.

    python -m benchmarks.runtimes        results/runtimes.*; OpenVINO where its package is installed

The 8-bit file has convolutions and matrix products quantised by calibration (onnxruntime.quantization, QDQ), which both
runtimes execute. Weights are random and the recordings noise, so that differences say how far a number format reaches,
not what a trained model loses.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from pruned_upstream.export import export_onnx, noise
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.onnx_file import open_session

from . import shapes
from .measure import machine, race, timing_row, write

SAMPLE_RATE = 16000
OPERATORS = ["Conv", "MatMul", "Gemm"]


class Calibration(quantization.CalibrationDataReader):
    def __init__(self, seconds: float, count: int) -> None:
        self.batches = iter([inputs(wav) for wav in noise(*[seconds] * count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def inputs(wav: Tensor) -> dict[str, np.ndarray]:
    return {"waveforms": wav[None].numpy(), "lengths": np.array([len(wav)])}


def quantised(file: Path, seconds: float) -> Path:
    """QDQ: 8-bit convolutions and products of activations with weights; attention's own products stay."""
    prepared, out = file.with_suffix(".prepared.onnx"), file.with_suffix(".qdq.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
    quantization.quantize_static(
        str(prepared),
        str(out),
        Calibration(seconds, 4),
        op_types_to_quantize=OPERATORS,
        nodes_to_exclude=kept,
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
    )
    return out


def in_openvino(file: Path, wav: Tensor, precision: str) -> Callable[[], list[np.ndarray]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape({"waveforms": [1, len(wav)], "lengths": [1]})
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    given = inputs(wav)
    return lambda: [np.array(value) for value in request.infer(given).values()]


def in_onnxruntime(file: Path, wav: Tensor) -> Callable[[], list[np.ndarray]]:
    session, given = open_session(file, 1), inputs(wav)
    return lambda: session.run(None, given)


def in_torch(encoder: Encoder, wav: Tensor) -> Callable[[], list[np.ndarray]]:
    return lambda: [state.float().numpy() for state in encoder.extract(wav).hidden_states]


def away(states: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Of the worst hidden state: root of the mean squared difference over that of its values."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(states, exact, strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["whole_heads", "fine_grained"])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (wav,) = noise(arguments.seconds)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for shape in arguments.shapes:
            encoder = Encoder(getattr(shapes, shape)()).eval()
            halves = Encoder(encoder.config).eval()
            halves.load_state_dict(encoder.state_dict())
            file = export_onnx(encoder, Path(folder) / f"{shape}.onnx").path
            eight = quantised(file, arguments.seconds)
            dynamic = export_onnx(encoder, Path(folder) / f"{shape}.int8.onnx", int8=True).path
            runs = {
                "torch": in_torch(encoder, wav),
                "torch, bf16": in_torch(halves.to(torch.bfloat16), wav),
                "onnxruntime": in_onnxruntime(file, wav),
                "onnxruntime, int8 of `export`": in_onnxruntime(dynamic, wav),
                "onnxruntime, int8 by calibration": in_onnxruntime(eight, wav),
            }
            try:
                runs |= {
                    "OpenVINO": in_openvino(file, wav, "f32"),
                    "OpenVINO, bf16": in_openvino(file, wav, "bf16"),
                    "OpenVINO, int8 by calibration": in_openvino(eight, wav, "f32"),
                }
            except ImportError:
                print("openvino is not installed; its rows are left out")
            exact = runs["torch"]()
            for timing in race(runs, repeats=arguments.repeats, clock="cpu"):
                states = runs[timing.name]()
                row = timing_row(timing, shape=shape.replace("_", " "), seconds=arguments.seconds)
                rows.append(row | {"relative difference": f"{away(states, exact):.1e}"})
    note = "Differences from torch in single precision are of the worst hidden state, relative (root mean square)."
    write("runtimes", rows, machine(clock="cpu", repeats=arguments.repeats), note=note)


if __name__ == "__main__":
    main()
