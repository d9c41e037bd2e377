"""`pruned-upstream convert`: a published checkpoint as a file of this package, or a model as a transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import add, terminal


def add_to(app: typer.Typer) -> None:
    """Add `convert` to the command line."""
    add(
        app,
        convert,
        "convert WavLM-Base.pt wavlm_base.safetensors",
        "convert runs/wavlm80/compact.safetensors for_transformers",
    )


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="What was published, or a model file of this package; the list above says which files."),
    ],
    out: Annotated[
        Path, typer.Argument(help="The file to write (.safetensors); or a folder, where transformers finds the model.")
    ],
    own_length: Annotated[
        bool,
        typer.Option(
            "--own-length", help="Whisper alone: hear recordings at their own length, not in windows filled up to 30 s."
        ),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(help="For states-N.ckpt: the model file that was finetuned, where it has moved since."),
    ] = None,
    keep_heads: Annotated[bool, typer.Option("--keep-heads", help="DistilHuBERT's prediction heads, too.")] = False,
) -> None:
    """Read a published checkpoint and write it as it is: to measure a teacher or a peer as we measure a compact model.

    What a file is, is seen from what it holds:

    - WavLM's .pt; HuBERT, wav2vec 2.0 or data2vec of fairseq, or s3prl's copy
    - a transformers folder
    - Whisper's .pt
    - DistilHuBERT, DPHuBERT, DPWavLM, DiariZen's pruned WavLM, LightHuBERT
    - torchaudio's state dicts
    - states-N.ckpt of s3prl's runner, where the upstream was finetuned with -f

    Into a folder, the model is written for transformers: an unpruned one as transformers' own class, a compact one as
    ours, which AutoModel knows once pruned_upstream is imported.
    """
    from ..model.checkpoint import save
    from ..model.convert import load_teacher
    from ..model.convert.whisper import at_own_length
    from ..model.size import count_parameters
    from ..transformers_plugin.folders import write_folder

    encoder = load_teacher(checkpoint, prediction_heads=keep_heads, base=base)
    if own_length:
        encoder = at_own_length(encoder)
    provenance = {"method": "conversion", "teacher": checkpoint.name}
    if out.suffix == ".safetensors":
        save(out, encoder, provenance=provenance)
    else:
        write_folder(out, encoder, provenance)
    terminal().print(
        f"wrote {out}: {encoder.config.family}, {count_parameters(encoder.config) / 1e6:.2f}M parameters",
        soft_wrap=True,
    )
