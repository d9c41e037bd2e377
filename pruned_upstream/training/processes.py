"""The processes of a run, as torchrun starts them; one process needs no launcher."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those of its run.

    rank, world: number of this process, number of all.
    device: where this process computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """The one process that writes files and talks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place; every process must call it at the same point."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy where this process computes. It is pinned first: so a GPU goes on with what it is doing meanwhile."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def scalar(self, value: float | Tensor) -> Tensor:
        """() float32 where this process computes; a number of the host is filled in there, not copied."""
        if isinstance(value, Tensor):
            return value.to(torch.float32)
        return torch.full((), value, dtype=torch.float32, device=self.device)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Around work whose result the main process leaves in files for the others."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


@contextmanager
def start_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the other processes of a torchrun launch, if there is one, and leave them at the end.

    A launch that runs several recipes wraps them in one `with`: processes that part cannot meet a second time.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        ConfigError: the device does not exist here.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1 or dist.is_initialized():
        yield Processes(rank, world, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device is '{name}'; it must be auto, cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device is '{name}'; it must be auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"run.device is '{name}', but torch sees no GPU; use run.device=cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(f"run.device is '{device}', but torch sees {torch.cuda.device_count()} GPU(s)")
    return device
