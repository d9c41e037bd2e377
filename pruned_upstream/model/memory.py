"""Very long recordings: refused in a sentence, before memory is asked for that is not there.

What a batch needs grows with the square of its length where WavLM's gated position bias is laid out for every pair of
frames, and in the first convolution with the number of samples. Both are known before anything is computed. The
estimate is a lower bound: training keeps more.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ..errors import DataError
from .config import SAMPLE_RATE, EncoderConfig

ALWAYS_FINE = 1 << 30  # bytes below which nobody is asked what is free
BYTES = 4  # of a number
CONV_COPIES = 2  # a convolution's output, and what its norm or activation makes of it
PAIR_COPIES = 2  # the bias of each pair of frames, and the gate's product with it


def require_memory(config: EncoderConfig, batch: int, samples: int, device: torch.device) -> None:
    """Refuse a batch that cannot be computed in the memory that is free.

    Args:
        batch: waveforms of `samples` samples each.

    Raises:
        DataError: it needs more; the length that would do is named.
    """
    needed = bytes_needed(config, batch, samples)
    if needed < ALWAYS_FINE:
        return
    free = free_bytes(device)
    if free is not None and needed > free:
        longest = _longest(config, free, samples) / SAMPLE_RATE
        raise DataError(
            f"{batch} waveform{'s' if batch > 1 else ''} of {samples / SAMPLE_RATE:,.0f} s: at least "
            f"{needed / 1e9:,.0f} GB are needed, and {free / 1e9:,.0f} GB of {device.type} memory are free; cut "
            f"recordings into parts of at most {longest:,.0f} s (`chunk_seconds` of `extract`, or "
            "data.max_seconds in training), or take fewer at a time"
        )


def bytes_needed(config: EncoderConfig, batch: int, samples: int) -> int:
    """A lower bound of what one pass takes at its peak."""
    first = config.conv[0]
    read = samples if config.log_mel is None else samples // config.log_mel.hop
    convolution = CONV_COPIES * first.channels * (read // first.stride)
    pairs = 0
    if config.relative_position is not None:
        heads = max(len(layer.heads) for layer in config.layers)
        copies = PAIR_COPIES if config.relative_position.gated else 1
        pairs = copies * heads * config.frames(samples) ** 2
    return batch * BYTES * max(convolution, pairs)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a new tensor on this device could have; None where that cannot be known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    known = [free for free in (_free_of_machine(), _free_of_group()) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    """Linux's estimate of what can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # another system
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else 1024 * int(kilobytes)


def _free_of_group() -> int | None:
    """What is left to a container or a job with a limit of its own (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:  # no such limit
        return None
    return int(limit) - int(used) if limit.isdecimal() else None


def _longest(config: EncoderConfig, free: int, samples: int) -> int:
    """Samples of one waveform that would fit; by bisection, for the need rises with the length."""
    low, high = 0, samples
    for _ in range(math.ceil(math.log2(samples))):
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_needed(config, 1, middle) <= free else (low, middle)
    return low
