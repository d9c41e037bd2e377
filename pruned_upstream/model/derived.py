"""When a faster form of a computation may be taken: never where it could answer otherwise than the plain one.

A form that reads a sub-module's weights instead of calling it would pass over whatever was done to that module
(hooks, adapters, masks, quantisation). So it is taken for plain modules alone; everything else is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

Kind = TypeVar("Kind", bound=nn.Module)


def captured() -> bool:
    """Whether a graph is being made of what runs (torch.compile, torch.export, ONNX), to fit other inputs too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def eager_on_cpu(tensor: Tensor) -> bool:
    """Whether a form of a computation may be taken that pays on a CPU alone, and that no graph should hold."""
    return tensor.device.type == "cpu" and not captured()


def in_bf16(tensor: Tensor) -> bool:
    """Whether matrix products with `tensor` are computed in bfloat16, by its own type or by autocast."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.bfloat16
    return tensor.dtype == torch.bfloat16


def at_least_single(tensor: Tensor) -> Tensor:
    """For what no half precision is defined for: in single precision, or in double if it is double."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether calling `module` does no more than the forward of torch's `kind` with the parameters it has.

    Adapters, quantised modules, parametrizations and FSDP change the class, `torch.nn.utils.prune` and weight norms
    use hooks, some libraries replace `forward` of the one module, and torchao the class of its parameters.
    """
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    )
    return (
        type(module) is kind
        and not any(hooks)
        and "forward" not in vars(module)
        and all(p is None or type(p) in (nn.Parameter, Tensor) for p in module._parameters.values())
    )


class Kept:
    """A tensor computed from others without gradients, kept until their values change; copies and pickles start anew.

    Values are compared, for a parameter written through `.data`, numpy or a fused optimiser keeps its address and its
    version. Comparing costs a hundredth of what the forms cost for which this is used.
    """

    def __init__(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._result: Tensor | None = None

    def get(self, compute: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """`compute(*sources)`, where `sources` are all that it depends on."""
        if self._result is None or not all(map(_same, self._sources, sources)):
            # normal tensors even under inference_mode: a frozen encoder may be asked for input gradients later
            with torch.inference_mode(False), torch.no_grad():
                self._sources = tuple(source.detach().clone() for source in sources)
                self._result = compute(*self._sources)
        return self._result

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


def _same(kept: Tensor, now: Tensor) -> bool:
    return kept.dtype == now.dtype and kept.device == now.device and torch.equal(kept, now)
