"""What modules read while an encoder hears speech: sums over frames that count, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..model.encoder import Encoder
from ..model.frontend import ConvBlock
from .compaction import evaluating, full_precision
from .repair import frames_that_count


class Moments:
    """Of a tensor's values and of their squares, by dimension."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.square = torch.zeros((), dtype=torch.double)

    def add(self, x: Tensor) -> None:
        """Frames (N, n)."""
        x = x.double()
        self.count += len(x)
        self.sum = self.sum + x.sum(0)
        self.square = self.square + self._squared(x)

    def root_mean_square(self) -> Tensor:
        """(n,)."""
        return (self.square / self.count).sqrt()

    def deviation(self) -> Tensor:
        """From the mean, (n,)."""
        return (self.square / self.count - (self.sum / self.count).square()).clamp(min=0.0).sqrt()

    def _squared(self, x: Tensor) -> Tensor:
        return x.square().sum(0)


class Products(Moments):
    """Of the products of any two dimensions, (n, n), in place of the squares."""

    def second_moment(self) -> Tensor:
        """(n, n)."""
        return self.square / self.count

    def covariance(self) -> Tensor:
        """(n, n)."""
        mean = self.sum / self.count
        return self.second_moment() - mean.outer(mean)

    def _squared(self, x: Tensor) -> Tensor:
        return x.t() @ x


Kept = TypeVar("Kept", bound=Moments)


class Watch:
    """Gathers what was asked for by `input` while an encoder hears batches."""

    def __init__(self) -> None:
        self._padding_mask: Tensor | None = None
        self._wanted: list[tuple[nn.Module, Callable[..., None]]] = []

    def input(self, module: nn.Module, kept: Kept, through: nn.Linear | None = None) -> Kept:
        """Of a module's first input, or of what `through` makes of it; (B, T, n), or channels first, (B, n, T')."""

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0] if through is None else through(inputs[0])
            if isinstance(module, ConvBlock):  # at another frame rate, of which no mask is known
                x = x.transpose(1, 2).flatten(0, 1)
            else:
                mask = self._padding_mask
                x = x.flatten(0, 1) if mask is None else x[frames_that_count(mask, mask, x)]
            kept.add(x)

        self._wanted.append((module, add))
        return kept

    @torch.no_grad()
    def hear(self, encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]], *, what: str) -> None:
        """Pass batches through the encoder whose modules are watched.

        Args:
            batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them, on the encoder's device.
            what: needs them, as the message says.

        Raises:
            DataError: there is no batch.
        """
        device, empty = next(encoder.parameters()).device.type, True
        hooks = [module.register_forward_pre_hook(add) for module, add in self._wanted]
        try:
            with evaluating(encoder), full_precision(), torch.autocast(device, enabled=False):
                for waveforms, lengths in batches:
                    empty = False
                    self._padding_mask = None if lengths is None else encoder.padding_mask(lengths, waveforms.size(1))
                    encoder(waveforms, lengths)
        finally:
            for hook in hooks:
                hook.remove()
        if empty:
            raise DataError(f"{what} need speech to be taken on, and there was none")
