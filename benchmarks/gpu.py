"""All figures of a GPU in one command of at most eight minutes.

    python -m benchmarks.gpu                  tests that matter, then rows by importance; goes on where it stopped
    python -m benchmarks.gpu --again          from the start
    python -m benchmarks.gpu --short          tiny models on whatever is there: that it runs

First the tests marked `gpu`, for what is wrong need not be timed. Then rows, the most important first, each written as
soon as it is taken (results/gpu.rows.json; gpu.md is the table): inference at batch 1 and 8 against s3prl's WavLM Base
on the same GPU, a gated training step at the paper's batch, what surrounds them. A row that fails says why. What is
there already is not taken again, nor is anything begun once the minutes are over: what is left is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruned_upstream.description.macs import OFFICIAL_LENGTHS
from pruned_upstream.model.config import EncoderConfig, dense_config, light_front_end, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.graphs import FrameGraphs

from . import shapes
from .measure import RESULTS, machine, write

SAMPLE_RATE = 16000
PAPER_HOURS, PAPER_STEPS = 36, 200_000
TRAIN_BATCH, TRAIN_SECONDS = 24, 15.6
TESTS = ["tests/training/test_gpu.py", "tests/superb/test_superb_with_s3prl.py"]
TEST_SECONDS = 150  # of the minutes


@dataclass(frozen=True)
class Row:
    """A figure to take: its key in the file, and how."""

    key: str
    take: Callable[[], dict[str, Any]]


class Bench:
    """Rows on one device; models are built when first needed, and seconds of the reference are kept."""

    def __init__(self, device: str, *, short: bool) -> None:
        self.device = device
        self.short = short
        self.repeats, self.warm_ups = (1, 1) if short else (20, 3)
        self._stock: dict[tuple[int, int], float] = {}

    def rows(self) -> Iterator[Row]:
        """Most important first."""
        yield from self._inference("ours, fine-grained heads", "eager", "graphs")
        yield from self._training()
        yield from self._inference("ours, dense", "eager")
        yield from self._inference("ours, front end pruned too", "eager", "graphs")
        yield from self._inference("ours, fine-grained heads, light front end", "eager", "graphs")
        yield from self._inference("ours, whole heads", "eager", "graphs")
        yield from self._inference("transformers WavLM Base", "eager")
        yield from self._inference("ours, fine-grained heads", "compiled")
        yield from self._inference("ours, fine-grained heads", "onnxruntime", precisions=("fp32",))
        yield Row("lengths of test-clean", self._lengths)
        yield Row("loading", self._loading)

    def _inference(self, model: str, *ways: str, precisions: tuple[str, ...] = ("fp32", "bf16")) -> Iterator[Row]:
        for batch, seconds in ((1, 5), (8, 15), (1, 15), (8, 5)):
            for way in ways:
                for precision in precisions:
                    key = f"{model}, {way}, {precision}, batch {batch}, {seconds} s"
                    yield Row(key, lambda a=(model, way, precision, batch, seconds): self._timed(*a))

    def _timed(self, model: str, way: str, precision: str, batch: int, seconds: int) -> dict[str, Any]:
        samples = 1600 if self.short else seconds * SAMPLE_RATE
        wavs = list(torch.randn(batch, samples, device=self.device))
        stock = self._stock.get((batch, seconds))
        if stock is None:
            stock = self._stock[batch, seconds] = self._seconds(self._peer("s3prl"), wavs, "fp32")
        took = self._seconds(self._extract(model, way), wavs, precision)
        names = {"model": model, "way": way, "precision": precision, "batch": batch, "seconds": seconds}
        return names | {
            "ms": round(took * 1e3, 2),
            "s3prl, ms": round(stock * 1e3, 2),
            "times faster": round(stock / took, 2),
        }

    def _extract(self, model: str, way: str) -> Callable[[list[torch.Tensor]], object]:
        if model.startswith("transformers"):
            return self._peer("transformers")
        encoder = Encoder(self._config(model)).to(self.device).eval()
        if way == "onnxruntime":
            return self._onnx(encoder)
        if way == "graphs":
            encoder.graphs = FrameGraphs()
        if way == "compiled":
            compiled = torch.compile(encoder, fullgraph=True, mode="reduce-overhead")
            return lambda wavs: compiled(torch.stack(wavs)).hidden_states
        return lambda wavs: encoder.extract(wavs).hidden_states

    def _config(self, model: str) -> EncoderConfig:
        if self.short:
            small = dense_config(num_layers=2, embed_dim=48, num_heads=4, ffn_dim=96, conv_pos=8, conv_pos_groups=4)
            return light_front_end(small) if "light" in model else small
        builders = {
            "ours, dense": wavlm_base_config,
            "ours, whole heads": shapes.whole_heads,
            "ours, fine-grained heads": shapes.fine_grained,
            "ours, front end pruned too": shapes.conv_pruned,
            "ours, fine-grained heads, light front end": shapes.light,
        }
        return builders[model]()

    def _peer(self, library: str) -> Callable[[list[torch.Tensor]], object]:
        if self.short:  # a peer of Base size would be all the time there is
            encoder = Encoder(self._config("ours, dense")).to(self.device).eval()
            return lambda wavs: encoder.extract(wavs).hidden_states
        from . import peers

        if library == "s3prl":
            return peers.s3prl_wavlm(self.device)
        return peers.transformers_model("WavLM", "eager", self.device)

    def _onnx(self, encoder: Encoder) -> Callable[[list[torch.Tensor]], object]:
        """onnxruntime on the same device, its hidden states left there. Raises where it has no CUDA."""
        import onnxruntime

        from pruned_upstream.export import export_onnx

        provider = "CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError("onnxruntime has no CUDA here (package onnxruntime-gpu)")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(encoder, path)
            session = onnxruntime.InferenceSession(str(path), providers=[provider])
        binding = session.io_binding()

        def run(wavs: list[torch.Tensor]) -> None:
            waveforms = torch.stack(wavs).cpu().numpy()
            binding.bind_cpu_input("waveforms", waveforms)
            binding.bind_cpu_input("lengths", torch.tensor([len(wav) for wav in wavs]).numpy())
            for output in session.get_outputs():
                binding.bind_output(output.name, "cuda" if self.device == "cuda" else "cpu")
            session.run_with_iobinding(binding)

        return run

    def _seconds(self, run: Callable[[list[torch.Tensor]], object], wavs: list[torch.Tensor], precision: str) -> float:
        half = torch.autocast(self.device, torch.bfloat16) if precision == "bf16" else nullcontext()
        taken = []
        with torch.inference_mode(), half:
            for number in range(self.repeats + self.warm_ups):
                self._wait()
                start = time.perf_counter()
                run(wavs)
                self._wait()
                if number >= self.warm_ups:
                    taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def _training(self) -> Iterator[Row]:
        for precision in ("bf16", "fp32"):
            yield Row(f"gated step, {precision}", lambda p=precision: self._step(p))

    def _step(self, precision: str) -> dict[str, Any]:
        """The step of the paper's run: seconds, memory, hours for its 200 000 steps."""
        from pruned_upstream.model.checkpoint import save
        from pruned_upstream.training.corpus import Corpus
        from pruned_upstream.training.data import Batch, Batches
        from pruned_upstream.training.loop import Trainer
        from pruned_upstream.training.processes import Processes
        from pruned_upstream.training.prune import PruneRecipe, build_objective
        from pruned_upstream.training.recipe import resolve_recipe

        batch, samples = (2, 1600) if self.short else (TRAIN_BATCH, round(TRAIN_SECONDS * SAMPLE_RATE))
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / "teacher.safetensors", Encoder(self._config("ours, dense")))
            tree = {
                "teacher": str(Path(folder) / "teacher.safetensors"),
                "data": {"train": folder},
                "sparsity": {"target": 0.8},
                "optimisation": {"steps": 1000, "precision": precision},
                "run": {"folder": str(Path(folder) / "run"), "device": self.device},
            }
            recipe = resolve_recipe(tree, PruneRecipe)
            processes = Processes(device=torch.device(self.device))
            trainer = Trainer(
                build_objective(recipe, processes), Batches(Corpus([]), recipe.data, seed=0), recipe, processes
            )
            part = Batch([torch.randn(samples) for _ in range(batch)], samples, [], [], 0, {})
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = []
            for number in range(3 if self.short else 8):
                self._wait()
                start = time.perf_counter()
                trainer.step(number, [part])
                self._wait()
                taken.append(time.perf_counter() - start)
        seconds = statistics.median(taken[2:])
        row = {"model": "gated step", "precision": precision, "batch": batch, "seconds": samples / SAMPLE_RATE}
        row |= {"ms": round(seconds * 1e3, 1), "sound per second": round(batch * samples / SAMPLE_RATE / seconds)}
        row |= {"hours for 200 000": round(seconds * PAPER_STEPS / 3600, 1), "paper's hours": PAPER_HOURS}
        if self.device == "cuda":
            row["GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        return row

    def _lengths(self) -> dict[str, Any]:
        """32 utterances as long as the official ones of LibriSpeech, one at a time, as the paper takes dev-clean."""
        lengths = [1600, 2400] if self.short else OFFICIAL_LENGTHS
        wavs = [torch.randn(samples, device=self.device) for samples in lengths]

        def all_of(extract: Callable[[list[torch.Tensor]], object]) -> Callable[[object], None]:
            return lambda _: [extract([wav]) for wav in wavs]

        stock = self._seconds(all_of(self._peer("s3prl")), [], "fp32")
        row: dict[str, Any] = {"model": "32 utterances of test-clean's lengths", "s3prl, ms": round(stock * 1e3, 1)}
        for way in ("eager", "graphs"):
            took = self._seconds(all_of(self._extract("ours, fine-grained heads", way)), [], "fp32")
            row[f"fine-grained, {way}: times faster"] = round(stock / took, 2)
        return row

    def _loading(self) -> dict[str, Any]:
        """Recordings of the paper's length that one loader process turns into batches."""
        import numpy as np
        import soundfile

        from pruned_upstream.training.corpus import find_corpus
        from pruned_upstream.training.data import Batches
        from pruned_upstream.training.recipe import Data

        count, seconds = (4, 0.2) if self.short else (48, TRAIN_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                noise = np.random.default_rng(number).normal(scale=0.05, size=round(seconds * SAMPLE_RATE))
                soundfile.write(Path(folder) / f"{number}.flac", noise, SAMPLE_RATE)
            data = Data(train=[folder], batch_utterances=count // 2)
            batches = Batches(find_corpus([folder], min_samples=400), data, seed=0)
            start = time.perf_counter()
            sound = sum(len(wav) for step in range(4) for part in batches[step] for wav in part.wavs) / SAMPLE_RATE
            took = time.perf_counter() - start
        return {"model": "one loader process, flac", "sound per second": round(sound / took)}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def run_tests(device: str, seconds: float, chosen: str) -> str:
    """The last line that pytest prints about the tests marked `gpu`."""
    here = Path(__file__).resolve().parents[1]
    program = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-x", *TESTS, *(["-k", chosen] if chosen else [])]
    given = os.environ | ({} if device == "cuda" else {"PRUNED_UPSTREAM_GPU_TESTS": device})
    try:
        done = subprocess.run(program, cwd=here, env=given, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"the tests were not through after {seconds:.0f} s"
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "; ".join([*failed, lines[-1] if lines else done.stderr.strip()[-200:]])


def free(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def take(bench: Bench, known: dict[str, dict[str, Any]], path: Path, ends: float, here: dict[str, Any]) -> list[str]:
    """Take what is missing and write after each row; keys of what the time did not suffice for."""
    left = []
    for row in bench.rows():
        if "error" not in known.get(row.key, {"error": ""}):
            continue
        if time.monotonic() > ends:
            left.append(row.key)
            continue
        try:
            known[row.key] = row.take()
        except Exception as error:  # one row's trouble must not cost the others; it is written, and tried again
            known[row.key] = {"model": row.key, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        print(row.key, known[row.key], flush=True)
        path.write_text(json.dumps({"machine": here, "rows": known}, indent=1) + "\n")
        free(bench.device)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--again", action="store_true", help="take every row anew")
    parser.add_argument("--tests", default="", help="pytest's -k; 'none' for no tests")
    parser.add_argument("--name", default="gpu", help="of the files under results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.short:
        raise SystemExit("there is no GPU here; --short shows that the command runs")
    began = time.monotonic()
    path = arguments.results / f"{arguments.name}.rows.json"
    here = machine(arguments.device)
    known: dict[str, dict[str, Any]] = {}
    if path.exists() and not arguments.again:
        kept = json.loads(path.read_text())
        if kept["machine"].get("gpu") == here.get("gpu"):  # rows of another GPU do not stand beside these
            known = kept["rows"]
    if arguments.tests != "none":
        here["tests"] = run_tests(arguments.device, TEST_SECONDS, arguments.tests)
        print(here["tests"], flush=True)
    torch.manual_seed(0)
    bench = Bench(arguments.device, short=arguments.short)
    left = take(bench, known, path, began + 60 * arguments.minutes, here)
    write(arguments.name, list(known.values()), here, folder=arguments.results)
    if left:
        print("not taken, the same command goes on:", *left, sep="\n  ")


if __name__ == "__main__":
    main()
