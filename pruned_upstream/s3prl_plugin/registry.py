"""Our upstreams under names of their own in `s3prl.hub`, beside the hundred that s3prl brings.

s3prl has no way to register a model: `hub.py` is a list of functions, and the runner takes the one whose name
stands behind `-u`. The same is done here from outside; nothing is written into s3prl.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from .. import after_import
from ..errors import CheckpointError

if TYPE_CHECKING:
    from .expert import UpstreamExpert

ANY_FAMILY = "pruned_upstream"
# name behind -u -> the model family it takes; None takes any
ENTRIES: dict[str, str | None] = {
    ANY_FAMILY: None,
    "pruned_wavlm": "wavlm",
    "pruned_hubert": "hubert",
    "pruned_wav2vec2": "wav2vec2",
    "pruned_data2vec": "data2vec",
    "pruned_whisper": "whisper",
    "distil_wavlm": "wavlm",
    "parp_wav2vec2": "wav2vec2",
    "parp_hubert": "hubert",
    "parp_wavlm": "wavlm",
}
CHECKPOINT_VARIABLE = "PRUNED_UPSTREAM_CKPT"


def register() -> None:
    """Make the compact upstreams known to s3prl, and s3prl run on this machine's libraries.

    Call it before `s3prl.nn.S3PRLUpstream`; it may be called more than once.

    Examples:
        >>> import pruned_upstream
        >>> pruned_upstream.register()
        >>> from s3prl.nn import S3PRLUpstream
        >>> upstream = S3PRLUpstream("pruned_wavlm", "compact.safetensors")
    """
    from . import caches, compat, deferral, parts, recordings

    compat.apply()
    deferral.defer()
    parts.supply()
    caches.lead()
    recordings.guard()
    after_import.after("s3prl.hub", add_entries)


def add_entries(hub: ModuleType) -> None:
    """Put one function for each of `ENTRIES` into `s3prl.hub`."""
    for name, family in ENTRIES.items():
        setattr(hub, name, entry(name, family))


def entry(name: str, family: str | None) -> Callable[..., UpstreamExpert]:
    """The function s3prl calls for `-u name`; it refuses models of another family than `family`."""

    def build(ckpt: str | None = None, model_config: str | None = None, refresh: bool = False) -> UpstreamExpert:
        from .expert import Options, UpstreamExpert

        path = ckpt or os.environ.get(CHECKPOINT_VARIABLE)
        if not path:
            raise CheckpointError(
                f"the upstream {name} needs a model file: name it with -k (in Python as the second argument of "
                f"S3PRLUpstream), or set the environment variable {CHECKPOINT_VARIABLE}"
            )
        options = None if model_config is None else Options.read(model_config)
        return UpstreamExpert(path, name=name, family=family, options=options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f"A compact {family or 'speech'} encoder; `ckpt` is the path of its model file or ONNX file, or its name on "
        "the hub, `model_config` the path of `expert.Options`."
    )
    return build
