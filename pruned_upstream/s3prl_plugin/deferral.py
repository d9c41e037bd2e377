"""transformers is imported when one of its models is asked for, not whenever s3prl is.

`s3prl.hub` imports the code of every upstream. That of two imports transformers, which takes longer than torch and all
the other upstreams together, and is needed by none of the others.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from .. import after_import

HUB = "s3prl.hub"
SLOW = ("s3prl.upstream.hf_hubert.expert", "s3prl.upstream.hf_wav2vec2.expert")


def defer() -> None:
    """Let the hub take functions that import the two experts when they are called."""
    if HUB not in sys.modules:
        after_import.before(HUB, _stand_in)
        after_import.after(HUB, _withdraw)


def _stand_in() -> None:
    for name in SLOW:
        if name not in sys.modules:
            sys.modules[name] = _StandIn(name)


def _withdraw(hub: ModuleType) -> None:
    for name in SLOW:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]  # whoever imports it from now on gets the module itself


class _StandIn(ModuleType):
    """What `hubconf.py` imports from an expert: a name to call."""

    def UpstreamExpert(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module(self.__name__).UpstreamExpert(*args, **kwargs)
