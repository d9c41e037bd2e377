"""What a run is made from, told by content: the same teacher under another path is the same, another teacher under the
same path is not.

Each launch of a run holds these against those of the first. Of a recording its name, its length and a sample of its
bytes count (`corpus.py`), of everything else every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import ConfigError
from ..model.encoder import Encoder

TEACHER = "teacher_weights"  # what a model file says of the teacher that it was pruned from
OF_TEACHER = "teacher weights"  # what a run's folder calls the fingerprint of its teacher


def encoder_fingerprint(encoder: Encoder) -> str:
    """Of shape and weights, whatever file they came from."""
    digest = hashlib.sha256(encoder.config.to_json().encode())
    _add_tensors(digest, encoder.state_dict())
    return digest.hexdigest()


def check_own_teacher(made: Mapping[str, str], teacher: Encoder) -> None:
    """Refuse another teacher than the one that a student was pruned from, where its file tells.

    Args:
        made: what the student's file says of its making.

    Raises:
        ConfigError: the teacher has other weights, or another config.
    """
    if made.get(TEACHER, (found := encoder_fingerprint(teacher))) != found:
        raise ConfigError(
            f"teacher is not the one that the student was pruned from, which was {made.get('teacher', 'another')}; "
            "name that one, wherever it lies now"
        )


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def lines_fingerprint(lines: Iterable[str]) -> str:
    """Of texts in their order."""
    digest = hashlib.sha256()
    for line in lines:
        encoded = line.encode("utf-8", errors="surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _add_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
