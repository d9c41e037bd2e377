"""Compact self-supervised speech encoders: pruned with distillation, and first-class s3prl upstreams.

>>> import pruned_upstream
>>> encoder = pruned_upstream.load("compact.safetensors")
>>> pruned_upstream.register()  # s3prl now knows -u pruned_wavlm
>>> keywords = pruned_upstream.load_task("runs/superb/compact/ks")  # a trained task, to be asked about recordings
"""

from __future__ import annotations

import importlib

from .transformers_plugin import registry

TYPE_CHECKING = False  # typing's own would import typing, which is half of what `import pruned_upstream` costs
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_task", "register"]

# imported when first asked for: `import pruned_upstream` itself loads nothing, not even torch
_HOMES = {"load": ".model.checkpoint", "load_task": ".prediction", "register": ".s3prl_plugin.registry"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


registry.watch()  # AutoModel.from_pretrained knows our folders, should transformers be imported
