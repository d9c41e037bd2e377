"""`pruned-upstream predict`: what a finished task says about recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import add, terminal


def add_to(app: typer.Typer) -> None:
    """Add `predict` to the command line."""
    add(
        app,
        predict,
        "predict runs/superb/wavlm80/ks clip.wav",
        "predict wavlm80.safetensors --layer 9 query.wav recording.wav",
    )


def predict(
    task: Annotated[
        Path,
        typer.Argument(
            help="A finished task of a run (runs/superb/compact/ks); an experiment folder or checkpoint of s3prl's "
            "runner; to search for a query, also a model file."
        ),
    ],
    clips: Annotated[list[Path], typer.Argument(help="Recordings. For SV two or more; for QbE the query first.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Classes to show, the likeliest first.")] = 5,
    model_file: Annotated[
        Path | None, typer.Option("--checkpoint", "-k", help="The upstream's file, if it was moved.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the corpora, if names of classes or symbols were moved.")
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", "-l", min=0, help="Of QbE: the hidden state.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """What a finished SUPERB task says about recordings: upstream and trained head, run on them.

    - KS, SID, IC, ER: keyword, speaker, intent or emotion, with probabilities
    - PR, ASR, SF: phones, text, text with slots
    - SD: who speaks when
    - SV: how alike two voices are
    - QbE: where a query is said
    """
    from ..prediction import load_task

    trained = load_task(task, model_file=model_file, data=data, layer=layer, device=device)
    answers = trained.predict(clips)
    for remark in trained.remarks:
        terminal(stderr=True).print(remark, style="dim", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([answer.tree(top) for answer in answers], indent=2, ensure_ascii=False))
        return
    for answer in answers:
        for line in answer.lines(top):
            typer.echo(line)
