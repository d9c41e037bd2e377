"""The processes of a run, as torchrun starts them; one process needs no launcher."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError
from ..files import locked
from ..parsing import require

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 20.0  # of the main process with others that are about to end

Value = TypeVar("Value")


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

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes; every process must call it at the same point. The device is not
        waited for."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in each of them; every process must call it at the same point."""
        if self.world == 1:
            return [value]
        values: list[Value] = [value] * self.world
        dist.all_gather_object(values, value)
        return values

    def after_main(self) -> None:
        """Until the main process has come by here, which waits for nobody.

        However long that takes: nothing is pending meanwhile that could time out, as a barrier would (after 10 minutes
        with NCCL). Should the main process die, whoever started the processes ends the others.
        """
        if self.world == 1:
            return
        store = _store()
        passed = f"pruned_upstream/passed/{store.add(f'pruned_upstream/{self.rank}', 1)}"  # one for each such point
        if self.is_main:
            store.set(passed, "1")
        while not self.is_main and not store.check([passed]):
            time.sleep(POLL_SECONDS)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Around work whose result the main process leaves in files for the others."""
        if not self.is_main:
            self.after_main()
        yield
        if self.is_main:
            self.after_main()

    @contextmanager
    def alone_in(self, folder: Path) -> Iterator[Path]:
        """Hold a run's folder, so that no other run writes there; what a killed one left half written goes.

        Raises:
            DataError: another run holds it.
        """
        if not self.is_main:
            yield folder
            return
        with locked(folder):
            yield folder


@contextmanager
def start_processes(device: str = "auto", *, key: str = "run.device") -> Iterator[Processes]:
    """Join the other processes of a torchrun launch, if there is one, and leave them at the end.

    A launch that runs several recipes wraps them in one `with`: processes that part cannot meet a second time.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        key: of the recipe, which said so.

    Raises:
        ConfigError: the device does not exist here.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = device_named(device, int(os.environ.get("LOCAL_RANK", 0)), key=key)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1 or dist.is_initialized():
        yield Processes(rank, world, chosen)
        return
    # beside NCCL for the gradients, gloo for what the host alone has to know
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(rank, world, chosen)
        _part(rank, world)
    except KeyboardInterrupt:
        _part(rank, world)
        raise
    finally:
        dist.destroy_process_group()


def _part(rank: int, world: int) -> None:
    """The main process may be the host of what the others still read in `after_main`: it leaves last."""
    store = _store()
    gone = store.add("pruned_upstream/gone", int(rank != 0))
    give_up = time.monotonic() + PATIENCE_SECONDS
    while rank == 0 and gone < world - 1 and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
        gone = store.add("pruned_upstream/gone", 0)


def _store() -> dist.Store:
    """Where the processes of this launch met."""
    return dist.distributed_c10d._get_default_store()


def device_named(name: str, local_rank: int = 0, *, key: str = "run.device") -> torch.device:
    """The device that a recipe's run.device, or another `key`, means here.

    Raises:
        ConfigError: it does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    known = re.fullmatch(r"(cpu|cuda)(:\d{1,2})?", name) is not None
    require(known, key, name, "be auto, cpu, cuda or cuda:<number>")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"{key} is '{name}', but torch sees no GPU; use {key}=cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(f"{key} is '{device}', but torch sees {torch.cuda.device_count()} GPU(s)")
    return device
