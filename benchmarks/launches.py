"""Operations that a forward pass asks a GPU for, counted without one: `python -m benchmarks.launches`.

On torch's `meta` device everything takes the way it takes on a GPU. Each operation that computes is about one kernel;
views are none, attention is one. Replayed from a graph (`model/graphs.py`) the transformer is one launch, and five
operations bring what goes in and out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.encoder import Encoder

from . import shapes
from .measure import machine, write
from .peers import WAVLM_BASE

SAMPLES = 80_000
FREE = {"empty", "empty_like", "empty_strided", "detach", "lift_fresh", "_unsafe_view", "_reshape_alias"}


class Launches(TorchDispatchMode):
    """Counts what is more than another look at the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.within = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(
            argument.alias_info and not argument.alias_info.is_write for argument in function._schema.arguments
        )
        on_host = isinstance(kwargs, dict) and kwargs.get("device") == torch.device("cpu")
        if not self.within and not is_view and not on_host and function._schema.name.split("::")[1] not in FREE:
            self.count += 1
        return function(*args, **(kwargs or {}))


class AttentionIsOne(TorchFunctionMode):
    """Fused on a GPU; on this device torch takes it apart."""

    def __init__(self, launches: Launches) -> None:
        self.launches = launches

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.launches.count += 1
        self.launches.within = True
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self.launches.within = False


def count(run: Callable[[Tensor], object]) -> int:
    """Launches of `run` on a waveform."""
    waveforms, launches = torch.zeros(1, SAMPLES, device="meta"), Launches()
    with torch.no_grad(), launches, AttentionIsOne(launches):
        run(waveforms)
    return launches.count


def projected(encoder: Encoder, waveforms: Tensor) -> Tensor:
    return encoder.project(encoder.features(waveforms))


def stock() -> Callable[[Tensor], object]:
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    model = WavLM(WavLMConfig(WAVLM_BASE)).eval().to("meta")
    return lambda waveforms: model.extract_features(waveforms, ret_layer_results=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = [{"model": "s3prl WavLM Base", "launches": count(stock())}]
    configs = {
        "ours, dense": wavlm_base_config(),
        "ours, whole heads": shapes.whole_heads(),
        "ours, fine-grained heads": shapes.fine_grained(),
        "ours, front end pruned too": shapes.conv_pruned(),
        "ours, fine-grained heads, light front end": shapes.light(),
    }
    for name, config in configs.items():
        encoder = Encoder(config).to("meta").eval()
        whole = count(encoder)
        before = count(partial(projected, encoder))
        rows.append({"model": name, "launches": whole, "front end": before, "with graphs": before + 6})
    write("launches", rows, machine(samples=SAMPLES))


if __name__ == "__main__":
    main()
