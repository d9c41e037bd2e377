"""A device without hardware: what would go between host and GPU is counted on torch's `meta` device.

On it tensors have shapes and no values. A value that the host asks for is counted and answered with zeros (with yes, if
it is a question), so that the code goes on; tensors of two devices in one operation, and operations whose result has a
size that the values decide (boolean masks as indices), are errors, as they would be errors or waits on a GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
LITERALS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


@dataclass
class Traffic(AbstractContextManager):
    """What passed between host and device while it was entered, each entry the line of code that asked for it.

    read_backs: the host waited for a value of the device.
    uploads: a tensor was copied to the device.
    waiting: those of the uploads that the host waits for, and so for all that the device still has to do.
    """

    read_backs: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    operations: int = 0

    def __enter__(self) -> Traffic:
        self._modes = ExitStack()
        self._modes.enter_context(_Literals(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()


class _Literals(TorchFunctionMode):
    """Numbers of Python that become tensors of the device: torch copies them without telling a dispatch mode."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in LITERALS and result.device == META and not (args and result is args[0]):
            self.traffic.uploads.append(_caller())
            self.traffic.waiting.append(_caller())
        return result


class _Operations(TorchDispatchMode):
    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.traffic.operations += 1
        if function is torch.ops.aten._local_scalar_dense.default and args[0].device == META:
            self.traffic.read_backs.append(_caller())
            return True if args[0].dtype == torch.bool else 0.0 if args[0].dtype.is_floating_point else 0
        if function in COPIES:
            return self._copy(function, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device for tensor in tensors if tensor.dim()}
        if len(devices) > 1:
            raise AssertionError(f"{function} mixes devices at {_caller()}")
        if function is torch.ops.aten._ctc_loss_backward.default:  # torch has no form of it for this device
            return torch.empty_like(args[1])
        return function(*args, **kwargs)

    def _copy(self, function: Any, args: Any, kwargs: Any) -> Any:
        if function is COPIES[0]:
            source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
        else:
            source, target = args[1].device, args[0].device
        if (source, target.type) == (META, "cpu"):
            self.traffic.read_backs.append(_caller())
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if source.type == "cpu" and target == META:
            self.traffic.uploads.append(_caller())
            if not (kwargs.get("non_blocking") or function is COPIES[1] and len(args) > 2 and args[2]):
                self.traffic.waiting.append(_caller())
        return function(*args, **kwargs)


def _caller() -> str:
    """The innermost line of the package on the stack."""
    import traceback

    for frame in reversed(traceback.extract_stack()):
        if "pruned_upstream/" in frame.filename:
            return f"{frame.filename.rpartition('pruned_upstream/')[2]}:{frame.lineno} {frame.line}"
    return "outside the package"
