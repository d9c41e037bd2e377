"""Random final gates, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pruned_upstream.model.config import EncoderConfig
from pruned_upstream.pruning.gates import GateSettings, gate_shapes

RandomGates = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="session")
def random_gates() -> RandomGates:
    """Stacked gates with a share `open_share` of each kind open, with value 1 or (`fractional`) in (0.1, 1)."""

    def draw(
        config: EncoderConfig,
        settings: GateSettings,
        *,
        seed: int,
        open_share: float | dict[str, float],
        fractional: bool,
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        gates = {}
        for kind, shape in gate_shapes(config, settings).items():
            share = open_share[kind] if isinstance(open_share, dict) else open_share
            z = (torch.rand(shape, generator=generator) < share).float()
            if kind.startswith("conv"):
                z[0] = 1.0
            gates[kind] = z * (0.1 + 0.9 * torch.rand(shape, generator=generator)) if fractional else z
        return gates

    return draw
