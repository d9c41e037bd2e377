"""Encoders of other libraries at Base size with random weights, as functions of a list of waveforms.

Each is asked for what s3prl's upstreams give: the hidden states of all layers, from waveforms (samples,) of one length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import pruned_upstream

Extract = Callable[[list[Tensor]], object]

WAVLM_BASE = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "layer_norm_first": False,
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "normalize": False,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
}


def s3prl_wavlm(device: str = "cpu") -> Extract:
    """s3prl's own WavLM upstream, unchanged: what a user of s3prl runs today."""
    from s3prl.upstream.wavlm.expert import UpstreamExpert
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wavlm_base.pt"
        torch.save({"cfg": WAVLM_BASE, "model": WavLM(WavLMConfig(WAVLM_BASE)).state_dict()}, path)
        expert = UpstreamExpert(str(path)).to(device).eval()
    return lambda wavs: expert(wavs)["hidden_states"]


def transformers_model(name: str, attention: str, device: str = "cpu") -> Extract:
    """`WavLM`, `Hubert` or `Wav2Vec2` of transformers; WavLM has no other attention than "eager"."""
    import transformers

    config = getattr(transformers, f"{name}Config")(attn_implementation=attention)
    model = getattr(transformers, f"{name}Model")(config).to(device).eval()
    return lambda wavs: model(torch.stack(wavs), output_hidden_states=True).hidden_states


def torchaudio_hubert(device: str = "cpu") -> Extract:
    """torchaudio's HuBERT Base; it has no relative positions, so it has less to do than WavLM."""
    from torchaudio.models import hubert_base

    model = hubert_base().to(device).eval()
    return lambda wavs: model.extract_features(torch.stack(wavs))[0]


def all_peers(device: str = "cpu") -> dict[str, Extract]:
    pruned_upstream.register()  # torchaudio's compiled part does not load beside every torch; its models need none
    return {
        "s3prl WavLM Base": s3prl_wavlm(device),
        "transformers WavLM Base (eager)": transformers_model("WavLM", "eager", device),
        "transformers HuBERT Base (sdpa)": transformers_model("Hubert", "sdpa", device),
        "transformers wav2vec 2.0 Base (sdpa)": transformers_model("Wav2Vec2", "sdpa", device),
        "torchaudio HuBERT Base": torchaudio_hubert(device),
    }
