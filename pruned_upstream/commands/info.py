"""`pruned-upstream info`: what is inside a model file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import add, terminal

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from ..description.latency import Latency
    from ..description.macs import Macs
    from ..model.config import EncoderConfig
    from ..model.header import Header

# WavLM Base has 94.38M parameters where the papers' tables say 94.70M, the count of HuBERT Base
COUNT_REMARK = (
    "counted: every parameter of the file; the tables of the papers give WavLM Base 94.70 M, so counted 94.38 M"
)

NO_CREDIT = (
    "zeros here and there make the file smaller and save no computing: the encoder runs dense; parameters and MACs "
    "count them in full"
)

STREAMED_REMARK = (
    "a model that hears chunks masks most pairs of frames when it is given the whole, and computes them; streamed it "
    "computes what it attends to alone"
)


def add_to(app: typer.Typer) -> None:
    """Add `info` to the command line."""
    add(
        app,
        info,
        "info runs/wavlm80/compact.safetensors",
        "info runs/wavlm80/compact.safetensors --latency --seconds 5 --plot layers.png",
    )


def info(
    file: Annotated[Path, typer.Argument(help="A model file of this package, or its ONNX file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw what survives in each layer: a .png, .pdf or .svg.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time it against the dense encoder.")] = False,
    seconds: Annotated[
        list[float] | None, typer.Option(help="Length of the timed utterance, repeatable; 5 and 15.", min=0.1)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to time it.")] = "cpu",
) -> None:
    """Size, cost and shape of a model: parameters, official MACs, and what survives in each layer."""
    from ..description import anatomy
    from ..description.figures import save_figure
    from ..description.latency import compare_with_dense
    from ..description.macs import NOT_COUNTED, PROFILER_REMARK, official_macs
    from ..model.checkpoint import load, read_header, read_masks
    from ..model.header import is_onnx
    from ..model.hub import local_file
    from ..model.size import nonzero_parameters

    file = local_file(file)
    header = read_header(file)
    macs, dense_macs = (official_macs(config) for config in (header.config, header.config.densified()))
    nonzero = None if is_onnx(file) else nonzero_parameters(load(file))
    times = compare_with_dense(load(file), utterance_seconds=seconds or (5.0, 15.0), device=device) if latency else []
    if plot is not None:
        save_figure(anatomy.figure(header.config), plot)
    if as_json:
        typer.echo(
            json.dumps(_as_json(header, nonzero, macs, times) | _sparsity_as_json(file, read_masks(file)), indent=2)
        )
        return
    console = terminal()
    console.print(_provenance(file, header))
    console.print(_parameters(header.config, nonzero))
    if header.sparse:
        console.print(_sparsity(file, read_masks(file)))
    console.print(_macs(header.config, macs, dense_macs))
    remarks = [COUNT_REMARK, *([NO_CREDIT] if header.sparse else []), PROFILER_REMARK]
    remarks += [STREAMED_REMARK] if header.config.streaming is not None else []
    for remark in (*remarks, "not counted:"):
        console.print(f"- {remark}", style="dim")
    for part in NOT_COUNTED:
        console.print(f"  - {part}", style="dim")
    console.print(anatomy.terminal_picture(header.config))
    if times:
        console.print(_times(times, device))
    console.print(_in_short(header, macs, dense_macs, times))


def _provenance(file: Path, header: Header) -> Table:
    from rich.table import Table

    from ..model.config import SAMPLE_RATE

    table = Table(title=str(file), title_justify="left", show_header=False)
    shape = "dense" if header.config.is_dense else "compact"
    table.add_row("model", f"{header.config.family}, {shape}, {header.config.num_layers} layers")
    if header.config.log_mel is not None:
        rate, positions = header.config.downsample_rate, header.config.positions
        seconds = rate * positions / SAMPLE_RATE
        filled = (
            f"windows filled up to {seconds:g} s" if header.config.whole_windows else "recordings at their own length"
        )
        table.add_row("hears", filled)
    if header.config.streaming is not None:
        frame = header.config.downsample_rate / SAMPLE_RATE
        chunk, history = (frame * n for n in (header.config.streaming.chunk, header.config.streaming.history))
        table.add_row("hears", f"chunks of {chunk:g} s, and attends to {history:g} s before each")
    table.add_row("file layout", header.version)
    for key, value in header.provenance.items():
        lines = value.count("\n")  # of a recipe, which would push everything else off the screen
        style = "bold red" if key == "missed" else None  # its target: what training says of a model that is no success
        table.add_row(key, f"{lines} lines; --json shows them" if lines else value, style=style)
    return table


def _parameters(config: EncoderConfig, nonzero: int | None) -> Table:
    from rich.table import Table

    from ..model.size import parameters_by_part

    table = Table(title="Parameters", title_justify="left")
    table.add_column("part")
    for name in ("here", "dense", "left"):
        table.add_column(name, justify="right")
    here, dense = (parameters_by_part(shape) for shape in (config, config.densified()))
    rows = {part.replace("_", " "): (here[part], dense[part]) for part in dense if dense[part]}
    rows["all"] = (sum(here.values()), sum(dense.values()))
    for part, (count, before) in rows.items():
        table.add_row(
            part, f"{count:,}", f"{before:,}", f"{count / before:.1%}", style="bold" if part == "all" else None
        )
    if nonzero is not None:
        table.add_row("not zero", f"{nonzero:,}", "", f"{nonzero / rows['all'][1]:.1%}")
    return table


def _in_short(header: Header, macs: Sequence[Macs], dense: Sequence[Macs], times: Sequence[Latency]) -> Table:
    """What most readers came for, where the cursor is."""
    from rich.table import Table

    from ..description.macs import official_macs
    from ..model.size import count_parameters

    table = Table(title="In short", title_justify="left", show_header=False)
    here, before = count_parameters(header.config), count_parameters(header.config.densified())
    table.add_row("parameters", f"{here / 1e6:.2f}M of {before / 1e6:.2f}M, {here / before:.1%} left")
    here, before = (sum(bucket.total for bucket in buckets) for buckets in (macs, dense))
    table.add_row("MACs", f"{here / 1e9:.1f} G of {before / 1e9:.1f} G, {here / before:.1%} left")
    if header.config.streaming is not None:
        streamed = sum(bucket.total for bucket in official_macs(header.config, streamed=True))
        table.add_row("MACs, streamed", f"{streamed / 1e9:.1f} G")
    for time in times:
        table.add_row(f"{time.utterance_seconds:g} s of speech", f"{time.speedup:.2f} times as fast as dense")
    if "missed" in header.provenance:
        table.add_row("missed", header.provenance["missed"], style="bold red")
    return table


def _sparsity(file: Path, masks: Mapping[str, Tensor]) -> Table:
    """The share of zeros in each matrix that is stored as its survivors."""
    from rich.table import Table

    from ..parp.masks import place, sparsity_of

    size = file.stat().st_size / 1e6
    table = Table(title=f"Zeros in each matrix (the file has {size:.2f} MB)", title_justify="left")
    table.add_column("layer", justify="right")
    kinds = list(dict.fromkeys(place(name)[1] for name in masks))
    layers = list(dict.fromkeys(place(name)[0] for name in masks))
    for kind in (*kinds, "all"):
        table.add_column(kind, justify="right")

    def cell(layer: int | None, kind: str) -> str:
        mine = {n: mask for n, mask in masks.items() if layer in (None, place(n)[0]) and kind in ("all", place(n)[1])}
        return f"{sparsity_of(mine):.1%}" if mine else ""

    for layer in layers:
        table.add_row(str(layer), *(cell(layer, kind) for kind in (*kinds, "all")))
    table.add_row("all", *(cell(None, kind) for kind in (*kinds, "all")), style="bold")
    return table


def _sparsity_as_json(file: Path, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    from ..parp.masks import sparsity_of

    return {
        "file_bytes": file.stat().st_size,
        "sparsity": sparsity_of(masks) if masks else 0.0,
        "sparsity_by_matrix": {name: sparsity_of({name: mask}) for name, mask in masks.items()},
    }


def _macs(config: EncoderConfig, buckets: Sequence[Macs], dense: Sequence[Macs]) -> Table:
    from rich.table import Table

    from ..description.macs import BUCKETS, seen_by_profiler

    table = Table(title="MACs (G), official 32 utterances", title_justify="left")
    table.add_column("bucket")
    for name in ("here", "dense", "left", "profiler, GPU", "profiler, CPU"):
        table.add_column(name, justify="right")
    counts: list[tuple[int, ...]] = [
        (here.total, before.total, seen_by_profiler(config, here), seen_by_profiler(config, here, on_cpu=True))
        for here, before in zip(buckets, dense, strict=True)
    ]
    counts.append(tuple(map(sum, zip(*counts, strict=True))))
    for name, (here, before, *seen) in zip((*BUCKETS, "all"), counts, strict=True):
        cells = [f"{here / 1e9:.2f}", f"{before / 1e9:.2f}", f"{here / before:.1%}", *[f"{s / 1e9:.2f}" for s in seen]]
        table.add_row(name, *cells, style="bold" if name == "all" else None)
    return table


def _times(times: Sequence[Latency], device: str) -> Table:
    from rich.table import Table

    table = Table(title=f"Latency at batch 1 on {device} (ms)", title_justify="left")
    for name in ("utterance", "here", "dense", "faster"):
        table.add_column(name, justify="right")
    for time in times:
        table.add_row(
            f"{time.utterance_seconds:g} s",
            f"{1e3 * time.compact:.1f}",
            f"{1e3 * time.dense:.1f}",
            f"{time.speedup:.2f}x",
        )
    return table


def _as_json(header: Header, nonzero: int | None, macs: Sequence[Macs], times: Sequence[Latency]) -> dict[str, Any]:
    from ..description.anatomy import layer_anatomy
    from ..description.macs import BUCKETS, official_macs, seen_by_profiler
    from ..model.size import count_parameters, parameters_by_part

    config = header.config
    streamed = None
    if config.streaming is not None:
        streamed = sum(bucket.total for bucket in official_macs(config, streamed=True))
    return {
        "version": header.version,
        "provenance": dict(header.provenance),
        "family": config.family,
        "parameters": count_parameters(config),
        "parameters_dense": count_parameters(config.densified()),
        "parameters_by_part": parameters_by_part(config),
        "nonzero_parameters": nonzero,
        "macs": sum(bucket.total for bucket in macs),
        "macs_streamed": streamed,
        "macs_by_official_profiler": {
            "gpu": sum(seen_by_profiler(config, bucket) for bucket in macs),
            "cpu": sum(seen_by_profiler(config, bucket, on_cpu=True) for bucket in macs),
        },
        "macs_by_bucket": {
            name: vars(bucket) | {"total": bucket.total} for name, bucket in zip(BUCKETS, macs, strict=True)
        },
        "layers": [dataclasses.asdict(layer) for layer in layer_anatomy(config)],
        "latency": [dataclasses.asdict(time) | {"speedup": time.speedup} for time in times],
    }
