"""What every reader of foreign files gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..config import EncoderConfig


class Found(NamedTuple):
    """A shape and its weights under our names, not yet checked against each other."""

    config: EncoderConfig
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """One kind of checkpoint.

    Attributes:
        description: what it is called, and what it holds, for messages.
        recognises: whether a dictionary of a file is of this kind.
        read: raises ConfigError when its options do not describe an encoder of ours.
    """

    description: str
    recognises: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Found]
