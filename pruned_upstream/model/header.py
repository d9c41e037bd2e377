"""What a file says of itself beside its weights: a model file (`checkpoint.py`) or an ONNX file (`onnx_file.py`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..parsing import as_utf8, is_text, parse_json, shown
from .config import EncoderConfig

FORMAT = "pruned_upstream"
VERSION, SPARSE_VERSION = "1", "2"  # a file has the lowest that can hold it
METADATA_KEYS = {
    VERSION: {"format", "version", "config", "provenance"},
    SPARSE_VERSION: {"format", "version", "config", "provenance", "sparse"},
}
CONVERSION = "`pruned-upstream convert {} OUT.safetensors` makes a model file of it"


@dataclass(frozen=True)
class Header:
    """What a model file says of itself, read without its weights.

    sparse: shape of each tensor that is stored as its survivors.
    """

    config: EncoderConfig
    provenance: Mapping[str, str] = field(default_factory=dict)
    version: str = VERSION
    sparse: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def is_onnx(path: Path) -> bool:
    """Whether it is what `pruned-upstream export` writes and onnxruntime runs (`onnx_file.py`)."""
    return path.suffix == ".onnx"


def is_pickle(path: Path) -> bool:
    """Whether it begins as torch.save's files do: an archive, or, of old, a pickle."""
    with open(path, "rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")


def in_folder_of_transformers(path: Path) -> bool:
    """Whether a config.json lies beside it, or it is one."""
    return os.path.isfile(path.parent / "config.json")


def check_readable(path: Path) -> None:
    """Raises CheckpointError with the reason when `path` is not a file that can be opened."""
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, "config.json")):
            raise CheckpointError(f"{path} is a folder as transformers writes them; {CONVERSION.format(path)}")
        raise CheckpointError(f"{path} is a folder; name the model file inside it")
    if not os.path.isfile(path):  # which says no, and raises nothing, where the name itself is impossible
        raise CheckpointError(f"there is no model file {path}; check the path")
    if path.suffix == ".json" and in_folder_of_transformers(path):
        raise CheckpointError(
            f"{path} is part of a folder as transformers writes them; {CONVERSION.format(path.parent)}"
        )
    if not is_text(str(path)):
        raise CheckpointError(f"the name of {as_utf8(str(path))} is not UTF-8, which safetensors needs; rename it")
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the model; run `git lfs pull` where it came from")


def parse_header(path: Path, metadata: Mapping[str, str]) -> Header:
    """The description in a model file's metadata; raises CheckpointError where it is none of ours."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file of another program (format {shown(metadata.get('format'))}); of a model of "
            f"transformers, {CONVERSION.format(path.parent)}"
        )
    version = metadata.get("version", "none")
    if version not in METADATA_KEYS:
        raise CheckpointError(
            f"{path} has version {shown(version)} of the layout, this program reads {' and '.join(METADATA_KEYS)}; "
            "update pruned_upstream"
        )
    keys = METADATA_KEYS[version]
    unknown, missing = sorted(metadata.keys() - keys), sorted(keys - metadata.keys())
    if unknown or missing:
        raise CheckpointError(f"{path}: unknown metadata {shown(unknown)}, missing metadata {missing}")
    return Header(*parse_description(path, metadata), version, _sparse_shapes(path, metadata))


def parse_description(path: Path, metadata: Mapping[str, str]) -> tuple[EncoderConfig, dict[str, str]]:
    """What `config` and `provenance` say; raises CheckpointError where they cannot be read."""
    try:
        config, provenance = EncoderConfig.from_json(metadata["config"]), parse_json(metadata["provenance"])
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: its description cannot be read: {error}") from error
    if not isinstance(provenance, dict) or not all(map(is_text, (*provenance, *provenance.values()))):
        raise CheckpointError(
            f"{path}: its provenance is {shown(provenance)}; it must be a JSON object of strings, such as "
            '{"teacher": "WavLM-Base.pt"}'
        )
    return config, provenance


def _sparse_shapes(path: Path, metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    try:
        tree = parse_json(metadata.get("sparse", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: its list of sparse tensors cannot be read: {error}") from error
    shapes = tree.items() if isinstance(tree, dict) else [("", tree)]
    for name, shape in shapes:
        if not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
            raise CheckpointError(
                f"{path}: its list of sparse tensors says {shown(shape)} of {shown(name)}; it must give a shape"
            )
    return {name: tuple(shape) for name, shape in shapes}
