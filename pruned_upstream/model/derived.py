"""Weights computed from parameters: padded, fused, folded or transformed forms that are never saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def captured() -> bool:
    """Whether a graph is being made of what runs (torch.compile, torch.export, ONNX), to fit other inputs too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def eager_on_cpu(tensor: Tensor) -> bool:
    """Whether a form of a computation may be taken that pays on a CPU alone, and that no graph should hold."""
    return tensor.device.type == "cpu" and not captured()


def at_least_single(tensor: Tensor) -> Tensor:
    """For what no half precision is defined for: in single precision, or in double if it is double."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class DerivesWeights(nn.Module):
    """A module whose forward uses tensors derived from its parameters.

    With gradients they are derived anew, so that the parameters learn through them; without, they are kept
    until a parameter is replaced or written in place. Copies and pickles of the module leave them behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._derived: tuple[Tensor, ...] | None = None
        self._source: list[tuple[Tensor, int]] = []  # the parameters they came from, each with its version

    def derive(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def derived(self) -> tuple[Tensor, ...]:
        if captured():
            return self.derive()
        parameters = list(self.parameters())
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            self._derived = None  # an optimiser step may follow, and a fused one leaves no trace in the version
            return self.derive()
        if any(p.is_inference() for p in parameters):  # such tensors count no versions
            return self.derive()
        if self._derived is None or not self._is_current(parameters):
            # normal tensors even under inference_mode: a frozen encoder may be asked for input gradients later
            with torch.inference_mode(False), torch.no_grad():
                self._derived = self.derive()
                # aliases keep the memory, so that no other tensor can take the same address meanwhile
                self._source = [(p.detach(), p._version) for p in parameters]
        return self._derived

    def _is_current(self, parameters: list[Tensor]) -> bool:
        return all(
            p.data_ptr() == source.data_ptr() and p.dtype == source.dtype and p._version == version
            for p, (source, version) in zip(parameters, self._source, strict=True)
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_derived": None, "_source": []}
