"""Our classes behind transformers' Auto classes, from the moment that transformers loads those.

`import pruned_upstream` stays light: nothing of transformers is imported here before somebody else does.
"""

from __future__ import annotations

from types import ModuleType

from .. import after_import

CONFIGURATIONS = "transformers.models.auto.configuration_auto"
MODELS = "transformers.models.auto.modeling_auto"


def watch() -> None:
    """Register when transformers' Auto classes are loaded, or now if they are."""
    after_import.after(CONFIGURATIONS, _register_configuration)
    after_import.after(MODELS, _register_models)


def _register_configuration(auto: ModuleType) -> None:
    from ..model.hub import MODEL_TYPE
    from .configuration import PrunedUpstreamConfig

    auto.AutoConfig.register(MODEL_TYPE, PrunedUpstreamConfig, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    from . import modeling
    from .configuration import PrunedUpstreamConfig
    from .remote_code import AUTO_MODELS

    for name, ours in AUTO_MODELS.items():
        getattr(auto, name).register(PrunedUpstreamConfig, getattr(modeling, ours), exist_ok=True)
