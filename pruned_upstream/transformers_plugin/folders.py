"""The files beside `model.safetensors` that make a folder a transformers model.

    config.json                    our encoder's shape, under the model type `pruned_upstream`
    preprocessor_config.json       the feature extractor: 16 kHz, normalised where the model wants it
    modeling_pruned_upstream.py    for `trust_remote_code=True` (`remote_code.py`)

They are written without transformers, which only who loads the folder needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_files, write_text
from ..model.checkpoint import save
from ..model.config import SAMPLE_RATE, EncoderConfig
from ..model.convert import native
from ..model.encoder import Encoder
from ..model.hub import MODEL_TYPE, RELEASED
from .remote_code import AUTO_MAP, AUTO_MODELS, write_remote_code

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"


def write_folder(folder: Path, encoder: Encoder, provenance: Mapping[str, str]) -> list[Path]:
    """A transformers folder from an encoder: transformers' own class where it has one, ours otherwise.

    Its own is WavLM, HuBERT, wav2vec 2.0 or data2vec audio, unpruned (`model/convert/native.py`).

    Raises:
        PrunedUpstreamError: the folder cannot be written.
    """
    with atomic_files(folder) as unfinished:
        if native.exists_for(encoder.config):
            written = native.write(unfinished, encoder)
        else:
            save(unfinished / RELEASED, encoder, provenance=provenance)
            written = [unfinished / RELEASED, *describe(unfinished, encoder.config, provenance)]
        written.append(write_preprocessor(unfinished, encoder.config))
    return [folder / path.name for path in written]


def describe(folder: Path, config: EncoderConfig, provenance: Mapping[str, str]) -> list[Path]:
    """config.json and the remote code, beside a model file of ours."""
    tree: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": [AUTO_MODELS["AutoModel"]],
        "auto_map": AUTO_MAP,
        "dtype": "float32",
        "encoder": json.loads(config.to_json()),
        "provenance": dict(provenance),
    }
    write_text(folder / CONFIG_FILE, json.dumps(tree, indent=1) + "\n")
    return [folder / CONFIG_FILE, write_remote_code(folder)]


def write_preprocessor(folder: Path, config: EncoderConfig) -> Path:
    """What AutoFeatureExtractor reads; with a mask of the padding, for padded frames are not to be attended to."""
    tree = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": config.normalizes_whole,
        "return_attention_mask": True,
    }
    write_text(folder / PREPROCESSOR_FILE, json.dumps(tree, indent=1) + "\n")
    return folder / PREPROCESSOR_FILE
