"""Where the time of a forward pass goes, before (s3prl) and after: `python -m benchmarks.parts`, results/parts.*.

Both encoders use the official names of WavLM's modules, so one table of names tells the parts of either.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from pruned_upstream.model.config import wavlm_base_config
from pruned_upstream.model.encoder import Encoder

from . import shapes
from .measure import CLOCKS, RESULTS, machine, write
from .peers import WAVLM_BASE

PARTS = {
    "feature_extractor": "front end",
    "encoder.pos_conv": "position convolution",
    "encoder.pos_conv.0": "position convolution",
    "self_attn": "attention",
    "fc1": "feed-forward",
    "fc2": "feed-forward",
}
REST = "norms, activations, rest"
SAMPLE_RATE = 16000


def watch(model: nn.Module, clock: Callable[[], float], spent: dict[str, float]) -> None:
    """Add the time inside each part's modules to `spent`; a module inside another part's is not counted twice."""
    outermost: list[nn.Module] = []

    def enter(module: nn.Module, arguments: tuple) -> None:
        if not outermost:
            outermost.append(module)
            module.entered = clock()

    for name, module in model.named_modules():
        part = PARTS.get(name) or PARTS.get(name.rpartition(".")[2])
        if part is None:
            continue

        def leave(module: nn.Module, arguments: tuple, output: object, part: str = part) -> None:
            if outermost and outermost[0] is module:
                spent[part] += clock() - module.entered
                outermost.clear()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def models() -> dict[str, tuple[nn.Module, Callable[[torch.Tensor], object]]]:
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    stock = WavLM(WavLMConfig(WAVLM_BASE)).eval()
    ours = {
        "ours, dense": wavlm_base_config(),
        "ours, whole heads": shapes.whole_heads(),
        "ours, fine-grained heads": shapes.fine_grained(),
        "ours, front end pruned too": shapes.conv_pruned(),
        "ours, fine-grained heads, light front end": shapes.light(),
    }
    encoders = {name: Encoder(config).eval() for name, config in ours.items()}
    return {"s3prl WavLM Base": (stock, lambda x: stock.extract_features(x, ret_layer_results=True))} | {
        name: (encoder, encoder) for name, encoder in encoders.items()
    }


def draw(rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for part in dict.fromkeys([*PARTS.values(), REST]):
        widths = [row[part] for row in rows]
        axes.barh([row["model"] for row in rows], widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(fontsize="small")
    figure.savefig(RESULTS / "parts.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = CLOCKS[arguments.clock]
    waveforms = torch.randn(1, round(arguments.seconds * SAMPLE_RATE))
    taken: dict[str, dict[str, list[float]]] = {}
    candidates = models()
    spent: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in candidates}
    for name, (model, _) in candidates.items():
        watch(model, clock, spent[name])
        taken[name] = defaultdict(list)
    with torch.inference_mode():
        for round_number in range(arguments.repeats + 1):
            for name, (_, run) in candidates.items():
                spent[name].clear()
                start = clock()
                run(waveforms)
                total = clock() - start
                if round_number:  # the first warms up
                    for part, seconds in spent[name].items():
                        taken[name][part].append(seconds)
                    taken[name][REST].append(total - sum(spent[name].values()))
    rows = [
        {"model": name, **{part: round(statistics.median(times) * 1e3, 1) for part, times in parts.items()}}
        for name, parts in taken.items()
    ]
    settings = {"clock": arguments.clock, "repeats": arguments.repeats, "seconds": arguments.seconds}
    write("parts", rows, machine(**settings), note="Milliseconds, medians.")
    draw(rows)


if __name__ == "__main__":
    main()
