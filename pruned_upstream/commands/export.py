"""`pruned-upstream export` and `pruned-upstream release`: a model for other runtimes, a model for other people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import add

if TYPE_CHECKING:
    from ..model.encoder import Encoder


def add_to(app: typer.Typer) -> None:
    """Add `export` and `release` to the command line."""
    add(
        app,
        export,
        "export runs/wavlm80/compact.safetensors --onnx wavlm80.onnx",
        "export runs/wavlm80/compact.safetensors --onnx wavlm80.onnx --audio speech.wav",
    )
    add(app, release, "release runs/wavlm80/compact.safetensors --out release --results runs/superb/wavlm80")


def export(
    file: Annotated[Path, typer.Argument(help="A model file of this package.")],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights in the matrix products.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Of a streaming model: one chunk of live audio, to be run chunk by chunk.")
    ] = False,
    drop_heads: Annotated[
        int, typer.Option(min=0, help="Leave out heads with at most this many value/output dimensions.")
    ] = 0,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Recordings on which to measure what dropping heads changes.")
    ] = None,
) -> None:
    """Write a model as ONNX, after comparing it with torch."""
    from ..export import drop_narrow_heads, export_onnx
    from ..model.checkpoint import load, read_header
    from ..model.hub import local_file

    file = local_file(file)
    header, encoder = read_header(file), load(file)
    if drop_heads:
        smaller = drop_narrow_heads(encoder, drop_heads)
        _report_change(encoder, smaller, audio or [])
        encoder = smaller
    report = export_onnx(encoder, onnx, int8=int8, live=live, provenance=header.provenance)
    typer.echo(f"{report.path}: {report.bytes / 1e6:.1f} MB")
    typer.echo(
        f"against torch: largest difference {report.largest:.1e} of the largest magnitude; "
        f"relative to the hidden states {min(report.relative):.1e} to {max(report.relative):.1e}"
    )


def release(
    file: Annotated[Path, typer.Argument(help="A model file of this package.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    name: Annotated[str | None, typer.Option(help="The model's name; the file's by default.")] = None,
    license: Annotated[
        str, typer.Option(help="Licence of the weights; the teacher's decides what is allowed.")
    ] = "other",
    results: Annotated[Path | None, typer.Option(help="A run folder with a results.yaml, for its scores.")] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Put ONNX files beside, in single precision and in int8.")
    ] = False,
) -> None:
    """Make a folder to publish: the model, a model card and, if wanted, ONNX files."""
    from ..model.hub import plain_name
    from ..release import write_release

    written = write_release(file, out, name=name or plain_name(file), license=license, results=results, onnx=onnx)
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _report_change(before: Encoder, after: Encoder, audio: list[Path]) -> None:
    from ..export import change_of_hidden_states, noise
    from ..model.size import count_parameters
    from ..model.waveforms import read_audio

    heads = [sum(len(layer.heads) for layer in encoder.config.layers) for encoder in (before, after)]
    parameters = [count_parameters(encoder.config) / 1e6 for encoder in (before, after)]
    wavs = [read_audio(path) for path in audio] or noise(3.0, 2.0)
    changes = change_of_hidden_states(before, after, wavs)
    typer.echo(f"heads: {heads[0]} -> {heads[1]}; parameters: {parameters[0]:.2f} M -> {parameters[1]:.2f} M")
    where = f"{len(audio)} recordings" if audio else "noise; give --audio for speech"
    typer.echo(f"relative change of the hidden states on {where}:")
    typer.echo("  " + " ".join(f"{change:.3f}" for change in changes))
