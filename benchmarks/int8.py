"""What 8-bit weights cost on the questions of `benchmarks.retention`: `python -m benchmarks.int8`, after its first run.

Heads are trained on torch's hidden states in single precision and then read onnxruntime's, as where a model is deployed
whose heads were trained before. Heads trained anew could make up for part of the difference.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruned_upstream.export import export_onnx
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.onnx_file import OnnxEncoder

from .measure import machine, write
from .retention.questions import QUESTIONS, Layers, accuracy, answer, represent
from .retention.speech import recordings
from .retention.students import layers_of

PROTOCOLS = {"last": False, "sum": True}  # whether layers are weighted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/retention"))
    parser.add_argument("--model", type=Path, help="by default ours of seed 0")
    arguments = parser.parse_args()
    path = arguments.model or arguments.root / "students" / "ours-0" / "compact.safetensors"
    encoder, speech = load(path), recordings(arguments.root / "speech")
    reference = represent(layers_of(encoder), speech).items
    heads, rows = {}, []
    row: dict[str, object] = {"model": "torch", "MB": round(path.stat().st_size / 1e6, 1)}
    for question in QUESTIONS:
        for protocol, weighted in PROTOCOLS.items():
            row[f"{question}.{protocol}"], *heads[question, protocol] = answer(*reference[question], weighted=weighted)
    rows.append(row)
    with tempfile.TemporaryDirectory() as folder:
        for name, int8 in (("onnxruntime", False), ("onnxruntime, int8", True)):
            report = export_onnx(encoder, Path(folder) / f"{int8}.onnx", int8=int8)
            heard = represent(onnx_layers(OnnxEncoder(report.path)), speech).items
            row = {"model": name, "MB": round(report.bytes / 1e6, 1), "relative change": f"{max(report.relative):.1e}"}
            for (question, protocol), (head, names) in heads.items():
                row[f"{question}.{protocol}"] = accuracy(head, heard[question][1], names)
            rows.append(row)
    write("int8", rows, machine(), note="Accuracies in per cent with the same heads, trained on torch's hidden states.")


def onnx_layers(encoder: OnnxEncoder) -> Layers:
    """waveforms -> hidden states of each, (L + 1, T_i, d), by onnxruntime."""

    def represent_batch(waveforms: Sequence[Tensor]) -> list[Tensor]:
        states = torch.stack(encoder.extract(waveforms).hidden_states)  # (L + 1, B, T, d)
        return [states[:, i, : encoder.config.frames(len(wav))] for i, wav in enumerate(waveforms)]

    return represent_batch


if __name__ == "__main__":
    main()
