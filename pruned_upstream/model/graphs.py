"""The transformer as recorded CUDA graphs, one for each batch size and bucket of lengths.

At batch 1 a GPU computes a compact transformer faster than the host can ask for it: some three hundred kernels, each of
a few microseconds. A graph asks once. It has one shape, so frames are padded to the end of their bucket; padded frames
are masked as those of any batch are, and what is computed for the others stays the same. The convolutions remain
outside: their group norm counts padding, so that padding a waveform would change every frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from .derived import captured, transformed

BUCKET = 64  # frames: 1.28 s
MOST = 16  # graphs kept; the one that waited longest goes
WARM_UPS = 3  # runs before a recording, in which libraries choose their kernels and reserve memory

Forward = Callable[[Tensor, Tensor], list[Tensor]]  # x (B, T, d), padding mask (B, T) -> hidden states (B, T, d)


class Recording(Protocol):
    """One recorded run: fill the inputs, replay, read the states."""

    x: Tensor
    mask: Tensor
    states: Tensor  # (L + 1, B, T, d)

    def replay(self) -> None:
        """Compute once more, on what the inputs hold now."""


class CudaRecording:
    """A forward pass on inputs of one shape, recorded on the GPU."""

    def __init__(self, forward: Forward, x: Tensor, mask: Tensor) -> None:
        self.x, self.mask = x, mask
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                forward(x, mask)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.states = torch.stack(forward(x, mask))

    def replay(self) -> None:
        """Launch the graph; its outputs are overwritten."""
        self.graph.replay()


def _autocast_without_cache(device: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast keeps the casts of weights until it ends; a graph that read them would replay on freed memory."""
    return nullcontext() if dtype is None else torch.autocast(device, dtype, cache_enabled=False)


def _is_touched(module: nn.Module) -> bool:
    """Whether calling the module does something that no recording can see."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


class FrameGraphs:
    """Recordings of an encoder's transformer, made when a shape is met for the first time.

    They read the weights where these lie, so that what is written in place counts. Where a parameter or a module was
    replaced, or the module takes another precision or device, a recording is made anew; where something hooks into a
    module, and wherever gradients are wanted, nothing is replayed. Threads wait for each other: inputs and outputs of a
    recording lie in one place.

    Args:
        record: makes a recording; another than CUDA's serves tests.
    """

    def __init__(
        self,
        *,
        bucket: int = BUCKET,
        most: int = MOST,
        record: Callable[[Forward, Tensor, Tensor], Recording] | None = None,
    ) -> None:
        self.bucket = bucket
        self.most = most
        self.record = record
        self._kept: OrderedDict[tuple, Recording] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def serves(self, module: nn.Module, x: Tensor) -> bool:
        """Whether `module` may be replayed for `x` instead of run."""
        return (
            (x.is_cuda or self.record is not None)
            and not torch.is_grad_enabled()
            and not captured()
            and not transformed()
            and not any(_is_touched(m) or m.training for m in module.modules())
        )

    def run(
        self, module: nn.Module, forward: Forward, x: Tensor, padding_mask: Tensor | None, *, pads: bool = True
    ) -> list[Tensor]:
        """Hidden states (B, T, d), as `forward(x, padding_mask)` gives them.

        Args:
            pads: whether padded frames leave the others alone; else each length has a recording of its own.
        """
        frames = x.size(1)
        with self._one_at_a_time:
            recording = self._recording(module, forward, x, self.bucket if pads else 1)
            recording.x[:, :frames].copy_(x)
            recording.mask.fill_(True)
            if padding_mask is None:
                recording.mask[:, :frames].fill_(False)
            else:
                recording.mask[:, :frames].copy_(padding_mask)
            recording.replay()
            return list(recording.states[:, :, :frames].clone().unbind())

    def _recording(self, module: nn.Module, forward: Forward, x: Tensor, bucket: int) -> Recording:
        batch, frames, dim = x.shape
        width = -(-frames // bucket) * bucket
        device = x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        places = tuple(parameter.data_ptr() for parameter in module.parameters())
        kinds = tuple(map(type, module.modules()))  # a parametrization leaves the parameter where it was
        key = (batch, width, x.dtype, x.device, autocast, places, kinds)
        if key not in self._kept:
            if len(self._kept) >= self.most:
                self._kept.popitem(last=False)
            # buffers that any later call may write, and no cast of a weight that ends with the caller's autocast
            with torch.inference_mode(False), torch.no_grad(), _autocast_without_cache(device, autocast):
                buffers = x.new_zeros(batch, width, dim), torch.ones(batch, width, dtype=torch.bool, device=x.device)
                buffers[1][:, :frames] = False
                self._kept[key] = (self.record or CudaRecording)(forward, *buffers)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __deepcopy__(self, memo: object) -> FrameGraphs:
        return FrameGraphs(bucket=self.bucket, most=self.most, record=self.record)

    def __reduce__(self) -> tuple[type[FrameGraphs], tuple[()]]:
        return FrameGraphs, ()
