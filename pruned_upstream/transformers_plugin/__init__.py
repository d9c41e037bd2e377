"""The encoder as a transformers model: `AutoModel.from_pretrained` on a folder that `release` or `convert` wrote.

    configuration.py   `PrunedUpstreamConfig`: our encoder's shape inside a transformers configuration
    modeling.py        `PrunedUpstreamModel`, `PrunedUpstreamForCTC`, `PrunedUpstreamForSequenceClassification`
    folders.py         writing such folders, and dense models as transformers' own classes
    registry.py        what `import pruned_upstream` tells the Auto classes

>>> import pruned_upstream
>>> from transformers import AutoFeatureExtractor, AutoModel
>>> model = AutoModel.from_pretrained("release")
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in the package's __init__
if TYPE_CHECKING:
    from typing import Any

_HOMES = {
    "PrunedUpstreamConfig": ".configuration",
    "PrunedUpstreamModel": ".modeling",
    "PrunedUpstreamForCTC": ".modeling",
    "PrunedUpstreamForSequenceClassification": ".modeling",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
