"""Inference: dense and compact encoders against s3prl's WavLM Base and other peers.

python -m benchmarks.inference                     results/inference.*
python -m benchmarks.inference --peers             results/peers.*: whole libraries at Base size
python -m benchmarks.inference --dtype float32     on a processor without instructions for bfloat16
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from pruned_upstream.model.config import hubert_base_config, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.size import count_parameters

from . import shapes
from .measure import CLOCKS, draw, machine, race, timing_row, write
from .peers import Extract, all_peers, s3prl_wavlm

SAMPLE_RATE = 16000


CONFIGS = {
    "ours, dense": wavlm_base_config,
    "ours, whole heads": shapes.whole_heads,
    "ours, fine-grained heads": shapes.fine_grained,
    "ours, front end pruned too": shapes.conv_pruned,
    "ours, fine-grained heads, light front end": shapes.light,
    "ours, whole heads, light front end": shapes.light_whole_heads,
}


def ours(config, device: str, dtype: torch.dtype = torch.float32) -> Extract:
    encoder = Encoder(config).to(device, dtype).eval()
    return lambda wavs: encoder.extract([wav.to(dtype) for wav in wavs]).hidden_states


def candidates(arguments: argparse.Namespace) -> dict[str, Extract]:
    device = arguments.device
    if arguments.peers:
        return all_peers(device) | {
            "ours, WavLM Base": ours(wavlm_base_config(), device),
            "ours, HuBERT Base": ours(hubert_base_config(), device),
        }
    found = {"s3prl WavLM Base": s3prl_wavlm(device)}
    for name in arguments.dtype:
        for model, build in CONFIGS.items():
            config = build()
            label = f"{model}, {count_parameters(config) / 1e6:.1f} M" + (", bf16" if name == "bfloat16" else "")
            found[label] = ours(config, device, getattr(torch, name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[5, 15])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        nargs="+",
        default=["float32", "bfloat16"],
        help="of ours, all in one race; s3prl's is float32",
    )
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--name", help="of the files under results, for another processor than inference.md's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    models = candidates(arguments)
    name = arguments.name or ("peers" if arguments.peers else "inference")
    rows = []
    for batch in arguments.batch:
        for seconds in arguments.seconds:
            wavs = list(torch.randn(batch, seconds * SAMPLE_RATE, device=arguments.device))
            runs = {model: partial(extract, wavs) for model, extract in models.items()}
            with torch.inference_mode():
                timings = race(runs, repeats=arguments.repeats, clock=arguments.clock, device=arguments.device)
            rows += [timing_row(timing, batch=batch, seconds=seconds) for timing in timings]
            settings = {"clock": arguments.clock, "repeats": arguments.repeats}
            write(name, rows, machine(arguments.device, **settings))
    draw(name, rows, group=lambda row: f"batch {row['batch']}, {row['seconds']} s", title="against s3prl's WavLM Base")


if __name__ == "__main__":
    main()
