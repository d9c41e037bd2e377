"""When a faster form of a computation may be taken: never where it could answer otherwise than the plain one.

A form that reads a sub-module's weights instead of calling it would pass over whatever was done to that module
(hooks, adapters, masks, quantisation). So it is taken for plain modules alone; everything else is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

Kind = TypeVar("Kind", bound=nn.Module)
FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {
    kind: kind.forward for kind in (nn.Linear, nn.Conv1d, nn.GroupNorm)
}  # as torch wrote them


def captured() -> bool:
    """Whether a graph is being made of what runs (torch.compile, torch.export, ONNX), to fit other inputs too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def transformed() -> bool:
    """Whether tensors are more than their values: batches under `vmap`, or with a tangent in forward mode."""
    # torch has no public word for either
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


def eager_on_cpu(tensor: Tensor) -> bool:
    """Whether a form of a computation may be taken that pays on a CPU alone, and that no graph should hold."""
    return tensor.device.type == "cpu" and not captured() and not transformed()


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
    use hooks, some libraries replace `forward` of the module or of its class, and torchao the class of its parameters.
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
        and FORWARDS.get(kind, kind.forward) is kind.forward
        and all(p is None or type(p) in (nn.Parameter, Tensor) for p in module._parameters.values())
    )


class _Computed(NamedTuple):
    result: Tensor
    sources: tuple[Tensor, ...]  # their values; of trusted ones the tensors themselves
    versions: tuple[int, ...]  # of trusted ones


class Kept:
    """A tensor computed from others without gradients, kept until their values change; copies and pickles start anew.

    Values are compared, for a parameter written through `.data`, numpy or a fused optimiser keeps its address and its
    version. Comparing costs a hundredth of what the forms cost for which this is used.

    trusting: nobody writes so; then address and version are compared alone.
    """

    def __init__(self) -> None:
        self.trusting = False
        self._computed: _Computed | None = None  # replaced as a whole, for several threads may ask at once

    def get(self, compute: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """`compute(*sources)`, where `sources` are all that it depends on."""
        trusting = self.trusting and not any(source.is_inference() for source in sources)  # these have no version
        computed = self._computed
        if computed is None or not _unchanged(computed, sources, trusting):
            # normal tensors even under inference_mode: a frozen encoder may be asked for input gradients later
            with torch.inference_mode(False), torch.no_grad():
                # held by an alias, so that no other tensor can come to lie at the address
                held = tuple(s.detach() if trusting else s.detach().clone() for s in sources)
                versions = tuple(source._version for source in held) if trusting else ()
                computed = self._computed = _Computed(compute(*held), held, versions)
        return computed.result

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


def _unchanged(computed: _Computed, sources: tuple[Tensor, ...], trusting: bool) -> bool:
    if trusting:
        return bool(computed.versions) and all(map(_untouched, computed.sources, computed.versions, sources))
    return not computed.versions and all(map(_same, computed.sources, sources))


def _same(kept: Tensor, now: Tensor) -> bool:
    return kept.dtype == now.dtype and kept.device == now.device and torch.equal(kept, now)


def _untouched(kept: Tensor, version: int, now: Tensor) -> bool:
    return kept.data_ptr() == now.data_ptr() and now._version == version and kept.dtype == now.dtype
