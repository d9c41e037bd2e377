"""What s3prl 0.4.18 needs and newer libraries have removed, put back before s3prl is imported.

Each function below stands in for one removal and says which; on libraries that still have it, it does nothing.
Supported: torch and torchaudio 2.5 to the newest, CPU-only builds included.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

import torch

from .. import after_import
from ..errors import PrunedUpstreamError

VERIFICATION = "s3prl.downstream.sv_voxceleb1.expert"
DECODER = "flashlight.lib.text.decoder"
# logger and words of warnings, given when s3prl is imported, about programs that no task needs
UNNEEDED_WARNINGS = {
    "sox": "SoX could not be found",
    "s3prl.upstream.espnet_hubert.expert": "ESPnet is not installed",
}

_undo = contextlib.ExitStack()
_applied = False


def apply() -> None:
    """Put everything back; a second call does nothing."""
    global _applied
    if _applied:
        return
    _applied = True
    _audio(_import_torchaudio())
    _hub_classes()
    _catalyst()
    _safe_globals()
    _unneeded_warnings()
    for name, action in ((VERIFICATION, _verification_on_any_device), (DECODER, _kenlm)):
        after_import.after(name, action)
        _undo.callback(after_import.cancel, name, action)


def remove() -> None:
    """Take back what `apply` changed in other modules (s3prl modules imported meanwhile keep what they took)."""
    global _applied
    _undo.close()
    _applied = False


def _put(module: Any, name: str, value: Any) -> None:
    if hasattr(module, name):
        _undo.callback(setattr, module, name, getattr(module, name))
    else:
        _undo.callback(delattr, module, name)
    setattr(module, name, value)


def _import_torchaudio() -> ModuleType:
    """torchaudio, without its compiled extension where that cannot be loaded.

    The wheels of torchaudio 2.9 and newer on PyPI are linked to CUDA, so that beside a CPU-only torch `import
    torchaudio` ends in an OSError; a torch for another CUDA version ends in a RuntimeError. s3prl uses nothing
    that is compiled: filters, forced alignment and the RNN transducer loss would be.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
    extension: Any = _empty_module("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension._IS_ALIGN_AVAILABLE = False
    extension._load_lib = lambda library: False
    extension.fail_if_no_align = _without_extension
    sys.modules[extension.__name__] = extension
    return importlib.import_module("torchaudio")


def _without_extension(function: Any) -> Any:
    @functools.wraps(function)
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PrunedUpstreamError(
            f"torchaudio.{function.__name__} is compiled code, and this torchaudio was built for another torch; "
            "install the builds that belong together"
        )

    return refuse


def _audio(torchaudio: ModuleType) -> None:
    """Backends, `info`, `load`, `save` and `sox_effects`, all removed in torchaudio 2.9.

    s3prl calls `set_audio_backend` while `s3prl.hub` is imported (upstream/byol_s/byol_a/common.py) and in its
    `main`. Up to 2.8 the effects are there, but only work where libsox is.
    """
    from . import audio_io, sox_effects

    backends = torchaudio.list_audio_backends() if hasattr(torchaudio, "list_audio_backends") else []
    if not hasattr(torchaudio, "set_audio_backend"):
        _put(torchaudio, "set_audio_backend", lambda backend: None)
        _put(torchaudio, "get_audio_backend", lambda: "soundfile")
    if not backends:
        for name in ("info", "load", "save"):
            _put(torchaudio, name, getattr(audio_io, name))
    if importlib.util.find_spec("torchaudio.sox_effects") is None:
        sys.modules["torchaudio.sox_effects"] = sox_effects
        _undo.callback(sys.modules.pop, "torchaudio.sox_effects")
        _put(torchaudio, "sox_effects", sox_effects)
    elif "sox" not in backends:
        removed = importlib.import_module("torchaudio.sox_effects")
        for name in ("apply_effects_file", "apply_effects_tensor"):
            _put(removed, name, getattr(sox_effects, name))


class _RemovedFromHub:
    """`HfFolder` and `Repository`, which huggingface_hub 1.0 removed; s3prl names them when it is imported."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    @classmethod
    def save_token(cls, token: str) -> None:
        cls._refuse()

    @staticmethod
    def _refuse() -> None:
        raise PrunedUpstreamError(
            "s3prl's --hub huggingface and --push_to_hf_hub need a huggingface_hub below 1.0; "
            "install one, or use the `huggingface-cli` of yours"
        )


def _hub_classes() -> None:
    huggingface_hub = importlib.import_module("huggingface_hub")
    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            _put(huggingface_hub, name, _RemovedFromHub)


def _catalyst() -> None:
    """`catalyst.data.sampler`, which pip 24.1 and newer cannot install."""
    if importlib.util.find_spec("catalyst") is not None:
        return
    from . import catalyst_sampler

    data: Any = _empty_module("catalyst.data")
    data.sampler = catalyst_sampler
    catalyst: Any = _empty_module("catalyst")
    catalyst.data = data
    for name, module in (("catalyst", catalyst), ("catalyst.data", data), ("catalyst.data.sampler", catalyst_sampler)):
        sys.modules[name] = module
        _undo.callback(sys.modules.pop, name)


def _empty_module(name: str) -> ModuleType:
    return importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None))


def _safe_globals() -> None:
    """torch 2.6 made `torch.load` safe by default; s3prl's checkpoints hold an `argparse.Namespace`.

    It is a bag of values, so that allowing it keeps the loader safe.
    """
    known = torch.serialization.get_safe_globals()
    if argparse.Namespace not in known:
        torch.serialization.add_safe_globals([argparse.Namespace])
        _undo.callback(_forget_namespace)


def _forget_namespace() -> None:
    remaining = [known for known in torch.serialization.get_safe_globals() if known is not argparse.Namespace]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(remaining)


def _unneeded_warnings() -> None:
    for name, words in UNNEEDED_WARNINGS.items():
        logger = logging.getLogger(name)
        without = functools.partial(_lacks, words)
        logger.addFilter(without)
        _undo.callback(logger.removeFilter, without)


def _lacks(words: str, record: logging.LogRecord) -> bool:
    return words not in record.getMessage()


def _kenlm(decoder: ModuleType) -> None:
    """`KenLM`, which newer flashlight-text has in a module of its own; s3prl's downstream/asr takes it from here."""
    if not hasattr(decoder, "KenLM"):
        with contextlib.suppress(ImportError):  # built without: s3prl says so when it is asked to decode with one
            _put(decoder, "KenLM", importlib.import_module(f"{DECODER}.kenlm").KenLM)


def _verification_on_any_device(expert: ModuleType) -> None:
    """Speaker verification moves its mask with `.cuda()`; here it goes to where the features are.

    Not a removal: s3prl's downstream/sv_voxceleb1/expert.py never ran on a CPU.
    """
    forward = expert.DownstreamExpert.forward

    @functools.wraps(forward)
    def on_device_of_features(self: Any, mode: str, features: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        tensors: Any = torch.Tensor
        cuda = tensors.cuda
        tensors.cuda = lambda tensor: tensor.to(features[0].device)
        try:
            return forward(self, mode, features, *args, **kwargs)
        finally:
            tensors.cuda = cuda

    _put(expert.DownstreamExpert, "forward", on_device_of_features)
