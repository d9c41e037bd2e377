"""Hidden states of Whisper encoders against transformers' own class with the same weights: results/whisper_agreement.

    python -m benchmarks.whisper.agreement --speech FOLDER

Base has its real weights. The encoder of small is in no package that could be had, so its shape has random ones.
Recordings go through transformers' own feature extractor on the one side and through our spectra on the other. Real
weights make single precision coarse: a few dimensions are a hundred times as large as the others, and the last layer
norm takes them away again. So both are held against themselves in double precision, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import machine, write
from pruned_upstream.model.config import whisper_config
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.model.convert.whisper import IN_LAYER
from pruned_upstream.model.encoder import Encoder

from . import weights
from .speech import Speech

RECORDINGS = 2
SMALL = {"num_layers": 12, "embed_dim": 768, "num_heads": 12}
WHOLE = {"feature_extractor.conv_layers.0.0": "conv1", "feature_extractor.conv_layers.1.0": "conv2"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whisper.agreement")
    parser.add_argument("--speech", type=Path, required=True)
    arguments = parser.parse_args()
    if weights.missing():
        sys.exit(f"not run: {', '.join(weights.missing())} is missing")
    wavs = [clip.waveform() for clip in Speech(arguments.speech).to_transcribe("dev", RECORDINGS)]
    torch.manual_seed(0)
    encoders = {
        "base, real weights": weights.teacher(),
        "small's shape, random weights": Encoder(whisper_config(**SMALL)),
    }
    rows = [row(name, encoder.eval(), wavs) for name, encoder in encoders.items()]
    note = (
        f"Largest difference of hidden states over their largest magnitude, the worst of all layers and {RECORDINGS} "
        "recordings. 'exact spectra': the extractor's numpy branch, which computes in double precision as ours does; "
        "'its own': the branch that transformers takes where torch is installed, in single precision."
    )
    write("whisper_agreement", rows, machine(dtype="float32"), note=note)


@torch.no_grad()
def row(name: str, encoder: Encoder, wavs: list[Tensor]) -> dict[str, Any]:
    import numpy as np
    import transformers

    theirs = as_transformers(encoder)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_teacher(folder)
    extractor = transformers.WhisperFeatureExtractor()
    worst = {"exact spectra": 0.0, "its own": 0.0}
    for wav in wavs:
        padded = np.pad(wav.numpy(), (0, extractor.n_samples - len(wav)))
        spectra = {
            "exact spectra": torch.from_numpy(extractor._np_extract_fbank_features(padded[None], "cpu")),
            "its own": extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_features,
        }
        states = ours.extract([wav]).hidden_states
        for kind, features in spectra.items():
            expected = theirs(features, output_hidden_states=True).hidden_states
            worst[kind] = max(
                worst[kind], largest(states, [b[:, : a.size(1)] for a, b in zip(states, expected, strict=True)])
            )
    window = torch.nn.functional.pad(wavs[0], (0, extractor.n_samples - len(wavs[0])))[None]
    single, double = both(ours, theirs, window), both(ours.double(), theirs.double(), window.double())
    return {
        "encoder": name,
        "layers": ours.config.num_layers,
        **{f"difference, {kind}": f"{value:.1e}" for kind, value in worst.items()},
        "in double precision": f"{largest(*double):.1e}",
        "ours, single from double": f"{largest(single[0], double[1]):.1e}",
        "transformers', single from double": f"{largest(single[1], double[1]):.1e}",
    }


def both(ours: Encoder, theirs: nn.Module, window: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states of a whole window by both, from our spectra."""
    spectra = ours.feature_extractor.log_mel(window).transpose(1, 2)
    return ours(window).hidden_states, list(theirs(spectra, output_hidden_states=True).hidden_states)


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference over largest magnitude, the worst of all layers."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


def as_transformers(encoder: Encoder) -> nn.Module:
    """transformers' encoder with these weights."""
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = encoder.config
    shape = transformers.WhisperConfig(
        d_model=config.embed_dim,
        encoder_layers=config.num_layers,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.ffn_dim,
    )
    theirs = WhisperEncoder(shape).eval()
    state = encoder.state_dict()
    names = {"encoder.positions": "embed_positions.weight"}
    for ours in state:
        module, _, kind = ours.rpartition(".")
        if module in WHOLE:
            names[ours] = f"{WHOLE[module]}.{kind}"
        elif ours != "encoder.positions":
            names[ours] = ours.removeprefix("encoder.")
    if not {name.split(".", 2)[2].rpartition(".")[0] for name in names.values() if "layers." in name} <= {
        *IN_LAYER.values()
    }:
        raise ValueError("a module has no name in transformers")
    theirs.load_state_dict({names[ours]: tensor for ours, tensor in state.items()})
    return theirs


if __name__ == "__main__":
    main()
