"""Which of our classes stand behind transformers' Auto classes, and the module that tells a folder's reader so.

    modeling_pruned_upstream.py    for `trust_remote_code=True`, where nobody has imported pruned_upstream before

Nothing of transformers is needed to write it.
"""

from __future__ import annotations

from pathlib import Path

from ..files import write_text

# the Auto class -> ours
AUTO_MODELS = {
    "AutoModel": "PrunedUpstreamModel",
    "AutoModelForCTC": "PrunedUpstreamForCTC",
    "AutoModelForAudioClassification": "PrunedUpstreamForSequenceClassification",
}
REMOTE_MODULE = "modeling_pruned_upstream"
CONFIGURATION = "PrunedUpstreamConfig"
AUTO_MAP = {auto: f"{REMOTE_MODULE}.{name}" for auto, name in {"AutoConfig": CONFIGURATION, **AUTO_MODELS}.items()}
REMOTE_CODE = f'''"""For transformers' trust_remote_code: the classes of the package pruned_upstream, which it needs."""

from pruned_upstream.transformers_plugin import (  # noqa: F401
    {CONFIGURATION},
{"".join(f"    {name}," + chr(10) for name in sorted(AUTO_MODELS.values()))})
'''


def write_remote_code(folder: Path) -> Path:
    """The module that `auto_map` names, without which nobody can load the folder as remote code.

    Raises:
        PrunedUpstreamError: it cannot be written.
    """
    write_text(folder / f"{REMOTE_MODULE}.py", REMOTE_CODE)
    return folder / f"{REMOTE_MODULE}.py"
