"""Weights computed from parameters: padded, fused or unfolded forms that are never saved."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DerivesWeights(nn.Module):
    """A module whose forward uses tensors derived from its parameters.

    With gradients they are derived anew, so that the parameters learn through them; without, they are kept
    until a parameter is replaced or written in place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._derived: tuple[Tensor, ...] | None = None
        self._derived_from: tuple[tuple[int, int], ...] = ()

    def derive(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def derived(self) -> tuple[Tensor, ...]:
        parameters = list(self.parameters())
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self.derive()
        source = tuple((p.data_ptr(), p._version) for p in parameters)
        if self._derived is None or source != self._derived_from:
            with torch.no_grad():
                self._derived = self.derive()
            self._derived_from = source
        return self._derived
