"""All figures of a GPU in one command of at most eight minutes.

    python -m benchmarks.gpu                  tests that matter, then rows by importance; goes on where it stopped
    python -m benchmarks.gpu --again          from the start
    python -m benchmarks.gpu --short          tiny models on whatever is there: that it runs

First the tests marked `gpu`, for what is wrong need not be timed. Then rows, the most important first, each written as
soon as it is taken (results/gpu.rows.json; gpu.md is the table): inference at batch 1 and 8 against s3prl's WavLM Base
on the same GPU, a gated training step at the paper's batch, what surrounds them. A row that fails says why. What is
there already is not taken again, nor is anything begun once the minutes are over: what is left is printed.

Nothing but torch, numpy and safetensors must be there. Without s3prl, times are compared with our own dense encoder's,
which the row says; without omegaconf or soundfile the training step and the loading are sentences.

A time is what a caller waits: from the call until the GPU is through, the median of rounds in which both models run in
turn, after a quarter of a second each that warms up. In single precision torch's own settings stay: TF32 in
convolutions alone. bf16 is `load(path, dtype=torch.bfloat16)` for ours and autocast for others, which cast no weights
in advance.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruned_upstream.description.macs import OFFICIAL_LENGTHS
from pruned_upstream.extras import remedy
from pruned_upstream.model.config import (
    CONV_FEATURE_LAYERS,
    EncoderConfig,
    dense_config,
    light_front_end,
    wavlm_base_config,
)
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.model.graphs import FrameGraphs

from . import shapes
from .measure import RESULTS, machine, race, write

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16000
PAPER_HOURS, PAPER_STEPS = 36, 200_000
TRAIN_BATCH, TRAIN_SECONDS = 24, 15.6
TESTS = ["tests/training/test_gpu.py", "tests/superb/test_superb_with_s3prl.py"]
TEST_SECONDS = 150  # of the minutes
WARM_UP_SECONDS = 0.25  # of each model; an idle GPU's clock is a fifth of its highest
LAST_ROW_SECONDS = 30  # before the end, from which on nothing is begun
SIZES = ((1, 5), (8, 15), (1, 15), (8, 5))  # batch, seconds
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS = {"s3prl WavLM Base": "s3prl", "transformers WavLM Base": "transformers"}

TEST_LINE = re.compile(r"(tests/\S+::.+) (PASSED|FAILED|ERROR|SKIPPED)\b")  # of pytest -v

Extract = Callable[[list[torch.Tensor]], object]


@dataclass(frozen=True)
class Row:
    """A figure to take: its key in the file, and how."""

    key: str
    take: Callable[[], dict[str, Any]]


class Bench:
    """Rows on one device. The reference is built once; the others where they are timed, and go with their row."""

    def __init__(self, device: str, *, short: bool) -> None:
        self.device = device
        self.short = short
        self.repeats = 1 if short else 11
        self._references: dict[str, Extract] = {}

    def rows(self) -> Iterator[Row]:
        """Most important first."""
        yield from self._inference("ours, fine-grained heads", "eager", "graphs")
        yield from self._training()
        yield from self._inference("ours, dense", "eager")
        yield from self._inference("ours, front end pruned too", "eager", "graphs")
        yield Row("lengths of test-clean", self._lengths)
        yield from self._inference("ours, fine-grained heads, light front end", "eager", "graphs")
        yield from self._inference("ours, whole heads", "eager", "graphs")
        yield from self._inference("s3prl WavLM Base", "eager", precisions=("bf16",))
        yield from self._inference("transformers WavLM Base", "eager")
        yield Row("loading", self._loading)
        yield from self._inference("ours, fine-grained heads", "onnxruntime", precisions=("fp32",), sizes=SIZES[:2])
        yield from self._inference("ours, fine-grained heads", "compiled", sizes=SIZES[:2])  # compiling takes a minute

    def _inference(
        self,
        model: str,
        *ways: str,
        precisions: tuple[str, ...] = tuple(DTYPES),
        sizes: tuple[tuple[int, int], ...] = SIZES,
    ) -> Iterator[Row]:
        for batch, seconds in sizes:
            for way in ways:
                for precision in precisions:
                    key = f"{model}, {way}, {precision}, batch {batch}, {seconds} s"
                    yield Row(key, lambda a=(model, way, precision, batch, seconds): self._timed(*a))

    def _timed(self, model: str, way: str, precision: str, batch: int, seconds: int) -> dict[str, Any]:
        samples = 1600 if self.short else seconds * SAMPLE_RATE
        wavs = list(torch.randn(batch, samples, device=self.device))
        compared = self._compared(self._extract(model, way, precision), wavs)
        names = {"model": model, "way": way, "precision": precision, "batch": batch, "seconds": seconds}
        return names | compared

    def _compared(self, extract: Extract, wavs: list[torch.Tensor]) -> dict[str, Any]:
        """Milliseconds beside the reference's, and how many times as fast."""
        against, reference = self._reference()
        runs = {"reference": lambda: reference(wavs), "own": lambda: extract(wavs)}
        with torch.inference_mode():
            for run in runs.values():
                until = time.monotonic() + (0 if self.short else WARM_UP_SECONDS)
                while time.monotonic() < until:
                    run()
                    self._wait()
            stock, own = race(runs, repeats=self.repeats, device=self.device)
        return {
            "ms": round(own.median * 1e3, 2),
            "against": against,
            "its ms": round(stock.median * 1e3, 2),
            "times faster": round(own.speedup, 2),
            "range": f"{own.lowest_speedup:.2f} to {own.highest_speedup:.2f}",
        }

    def _reference(self) -> tuple[str, Extract]:
        """s3prl's WavLM Base in single precision; where there is no s3prl, our own dense encoder."""
        if not self._references:
            try:
                self._references["s3prl WavLM Base"] = self._peer("s3prl", "fp32")
            except Exception as error:  # whatever it lacks here, our own rows must not be lost for it
                dense = self._extract("ours, dense", "eager", "fp32")
                self._references[f"ours, dense; of s3prl: {why(error)}"] = dense
        return next(iter(self._references.items()))

    def _extract(self, model: str, way: str, precision: str) -> Extract:
        """Raises RuntimeError or ModuleNotFoundError where something that it takes is not there."""
        if model in PEERS:
            return self._peer(PEERS[model], precision)
        dtype = DTYPES[precision]
        if way == "onnxruntime":
            return self._onnx(Encoder(self._config(model)).eval())
        with torch.device(self.device):  # where drawing weights takes no time
            encoder = Encoder(self._config(model)).eval()
        encoder.to(self.device, dtype)
        if way == "graphs":
            encoder.graphs = FrameGraphs()
        if way == "compiled":
            compiled = torch.compile(encoder, fullgraph=True, mode="reduce-overhead")
            return lambda wavs: compiled(torch.stack(wavs).to(dtype)).hidden_states
        return lambda wavs: encoder.extract(wavs).hidden_states

    def _config(self, model: str) -> EncoderConfig:
        if self.short:
            conv = tuple((32, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
            widths = {"embed_dim": 48, "num_heads": 4, "ffn_dim": 96, "conv_pos": 8, "conv_pos_groups": 4}
            small = dense_config(num_layers=2, conv_layers=conv, **widths)
            return light_front_end(small) if "light" in model else small
        builders = {
            "ours, dense": wavlm_base_config,
            "ours, whole heads": shapes.whole_heads,
            "ours, fine-grained heads": shapes.fine_grained,
            "ours, front end pruned too": shapes.conv_pruned,
            "ours, fine-grained heads, light front end": shapes.light,
        }
        return builders[model]()

    def _peer(self, library: str, precision: str) -> Extract:
        if self.short:  # a peer of Base size would be all the time there is
            __import__(library)
            extract = self._extract("ours, dense", "eager", "fp32")
        else:
            from . import peers

            if library == "s3prl":
                extract = peers.s3prl_wavlm(self.device)
            else:
                extract = peers.transformers_model("WavLM", "eager", self.device)
        if precision == "fp32":
            return extract

        def in_bf16(wavs: list[torch.Tensor]) -> object:
            with torch.autocast(self.device, torch.bfloat16):
                return extract(wavs)

        return in_bf16

    def _onnx(self, encoder: Encoder) -> Extract:
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
        on_gpu = self.device == "cuda"
        others = torch.cuda.memory_allocated() if on_gpu else 0  # the reference's weights
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
            wavs = [torch.randn(samples, pin_memory=on_gpu) for _ in range(batch)]  # as loader processes give them
            part = Batch(wavs, samples, [], [], 0, {})
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            taken = []
            for number in range(3 if self.short else 8):
                self._wait()
                start = time.perf_counter()
                trainer.step(number, [part])
                self._wait()
                taken.append(time.perf_counter() - start)
            if on_gpu:
                peak = torch.cuda.max_memory_allocated() - others
        seconds = statistics.median(taken[2:])
        row = {"model": "gated step", "precision": precision, "batch": batch, "seconds": samples / SAMPLE_RATE}
        row |= {"ms": round(seconds * 1e3, 1), "sound per second": round(batch * samples / SAMPLE_RATE / seconds)}
        row |= {"hours for 200 000": round(seconds * PAPER_STEPS / 3600, 1), "paper's hours": PAPER_HOURS}
        return row | ({"GiB": round(peak / 2**30, 1)} if on_gpu else {})

    def _lengths(self) -> dict[str, Any]:
        """32 utterances as long as the official ones of LibriSpeech, one at a time, as the paper takes dev-clean."""
        lengths = [1600, 2400] if self.short else OFFICIAL_LENGTHS
        wavs = [torch.randn(samples, device=self.device) for samples in lengths]
        row: dict[str, Any] = {"model": "ours, fine-grained heads", "batch": f"1, {len(wavs)} utterances of test-clean"}
        against, reference = self._reference()
        for way in ("eager", "graphs"):
            extract = self._extract("ours, fine-grained heads", way, "fp32")
            runs = {"reference": reference, "own": extract}
            with torch.inference_mode():
                each = {name: lambda run=run: [run([wav]) for wav in wavs] for name, run in runs.items()}
                stock, own = race(each, repeats=1 if self.short else 5, device=self.device)
            row |= {"against": against, "its ms": round(stock.median * 1e3, 1)}
            row[f"{way}, times faster"] = round(own.speedup, 2)
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


def run_tests(device: str, seconds: float, chosen: str, before: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Counts of the tests marked `gpu`, and which failed; where the time is over, of those that were through.

    Args:
        before: tests that passed in an earlier launch, whose time was over: they count, and are not run again.

    Returns:
        What is to be said, and the tests that passed.
    """
    program = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-m", "gpu", *TESTS]
    program += ["-k", chosen] if chosen else []
    program += [f"--deselect={name}" for name in before]
    given = os.environ | ({} if device == "cuda" else {"PRUNED_UPSTREAM_GPU_TESTS": device})
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        try:
            rc = subprocess.run(program, cwd=ROOT, env=given, stdout=out, stderr=out, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            rc = None
        out.seek(0)
        lines = out.read().splitlines()
    ended = [(found[1], found[2]) for line in lines if (found := TEST_LINE.match(line))]
    count = {word: sum(end[1] == word for end in ended) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    count["PASSED"] += len(before)
    said = ", ".join(f"{number} {word.lower()}" for word, number in count.items() if number)
    failed = [name for name, word in ended if word in ("FAILED", "ERROR")]
    if rc is None:
        said += f"; not through after {seconds:.0f} s"
    elif not count["PASSED"] and not failed:
        said = f"no test ran: {lines[-1] if lines else 'pytest said nothing'}"
    return "; ".join([said, *failed]), [*before, *(name for name, word in ended if word == "PASSED")]


def passed(tests: str) -> bool:
    """Whether `run_tests` said that all went well, so that they need not be run again."""
    return " passed" in tests and not any(word in tests for word in ("failed", "error", "not through"))


def free(device: str) -> None:
    """Give back what the last row held, compiled code and its graphs included."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if device == "cuda":
        if torch.cuda.memory_allocated() > 2**31:  # more than the reference: cycles hold it, and looking takes long
            gc.collect()
        torch.cuda.empty_cache()


def why(error: Exception) -> str:
    """One line: the package that is missing and what brings it, or what the error says."""
    missing = remedy(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    lines = str(error).strip().splitlines() or [""]
    return missing or f"{type(error).__name__}: {lines[0][:160]}"


def take(
    bench: Bench,
    known: dict[str, dict[str, Any]],
    path: Path,
    ends: float,
    here: dict[str, Any],
    tests: Sequence[str] = (),
) -> list[str]:
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
            known[row.key] = {"model": row.key, "error": why(error)}
        print(row.key, known[row.key], flush=True)
        keep(path, here, known, tests)
        free(bench.device)
    return left


def keep(path: Path, here: dict[str, Any], known: dict[str, dict[str, Any]], tests: Sequence[str] = ()) -> None:
    """Write the rows whole, and the tests that passed where others are still to be run; or leave the file as it was."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"machine": here, "rows": known, "tests passed": list(tests)}, indent=1) + "\n")
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
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
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"{arguments.name}.rows.json"
    here = machine(arguments.device)
    known: dict[str, dict[str, Any]] = {}
    through: list[str] = []
    if path.exists() and not arguments.again:
        kept = json.loads(path.read_text())
        if kept["machine"].get("gpu") == here.get("gpu"):  # rows of another GPU do not stand beside these
            known, through = kept["rows"], kept.get("tests passed", [])
            here |= {key: kept["machine"][key] for key in ("tests",) if key in kept["machine"]}
    if arguments.tests != "none" and not passed(here.get("tests", "")):
        here["tests"], through = run_tests(arguments.device, TEST_SECONDS, arguments.tests, through)
        print(here["tests"], flush=True)
        keep(path, here, known, through)
    torch.manual_seed(0)
    bench = Bench(arguments.device, short=arguments.short)
    left = take(bench, known, path, began + 60 * arguments.minutes - LAST_ROW_SECONDS, here, through)
    write(arguments.name, list(known.values()), here, folder=arguments.results)
    if left:
        print("not taken, the same command goes on:", *left, sep="\n  ")


if __name__ == "__main__":
    main()
