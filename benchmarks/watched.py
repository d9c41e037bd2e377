"""What `benchmarks.watch` times: run by it as a program, once for each tree, whose package is on the path.

Each measure has a set-up whose time does not count, and returns what is timed. Only what both trees offer is used.
After READY, each line read asks for one run, and is answered with the processor seconds it took.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Run = Callable[[], object]
FILES, SHORT_FILES = 20_000, 200


def config(shape: str, short: bool):
    from benchmarks import shapes
    from pruned_upstream.model.config import dense_config, wavlm_base_config

    if short:
        return dense_config(num_layers=2, embed_dim=48, num_heads=4, ffn_dim=96, conv_pos=8, conv_pos_groups=4)
    return wavlm_base_config() if shape == "dense" else getattr(shapes, shape)()


def forward(shape: str, batch: int, short: bool) -> Run:
    import torch

    from pruned_upstream.model.encoder import Encoder

    encoder = Encoder(config(shape, short)).eval()
    wavs = list(torch.randn(batch, 1600 if short else 80_000))

    def run() -> None:
        with torch.inference_mode():
            encoder.extract(wavs)

    return run


def gated_step(short: bool, folder: Path) -> Run:
    import torch

    from pruned_upstream.model.checkpoint import save
    from pruned_upstream.model.encoder import Encoder
    from pruned_upstream.training.corpus import Corpus
    from pruned_upstream.training.data import Batch, Batches
    from pruned_upstream.training.loop import Trainer
    from pruned_upstream.training.prune import PruneRecipe, build_objective
    from pruned_upstream.training.recipe import resolve_recipe

    save(folder / "teacher.safetensors", Encoder(config("dense", short)))
    tree = {
        "teacher": str(folder / "teacher.safetensors"),
        "data": {"train": str(folder)},
        "sparsity": {"target": 0.8},
        "optimisation": {"steps": 1000},
        "run": {"folder": str(folder / "run"), "device": "cpu"},
    }
    recipe = resolve_recipe(tree, PruneRecipe)
    trainer = Trainer(build_objective(recipe), Batches(Corpus([]), recipe.data, seed=0), recipe)
    samples = 1600 if short else 40_960
    batch = Batch([torch.randn(samples) for _ in range(2)], samples, [], [], 0, {})
    return lambda: trainer.step(0, [batch])


def load(short: bool, folder: Path) -> Run:
    from pruned_upstream.model import checkpoint
    from pruned_upstream.model.encoder import Encoder

    checkpoint.save(folder / "model.safetensors", Encoder(config("fine_grained", short)))
    return lambda: checkpoint.load(folder / "model.safetensors")


def first_batch(short: bool, folder: Path) -> Run:
    import numpy as np
    import soundfile

    from pruned_upstream.training.corpus import find_corpus
    from pruned_upstream.training.data import Batches
    from pruned_upstream.training.processes import Processes
    from pruned_upstream.training.recipe import Data

    try:
        from pruned_upstream.training.growing import recordings_of
    except ImportError:  # a tree in which the first batch waited for all headers
        recordings_of = None

    soundfile.write(folder / "one.wav", np.zeros(1600, dtype=np.int16), 16000)
    content = (folder / "one.wav").read_bytes()
    for number in range(SHORT_FILES if short else FILES):
        path = folder / str(number // 1000) / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def run() -> object:
        data = Data(train=[str(folder)], workers=0)
        if recordings_of is None:
            corpus = find_corpus([str(folder)], min_samples=400)
        else:
            corpus = recordings_of(data, Processes(), min_samples=400, cache=None)
        Batches(corpus, data, seed=0)[0]
        return corpus

    return run


def measures(short: bool, folder: Path) -> dict[str, Callable[[], Run]]:
    return {
        "dense, batch 1": lambda: forward("dense", 1, short),
        "dense, batch 8": lambda: forward("dense", 8, short),
        "compact, batch 1": lambda: forward("fine_grained", 1, short),
        "compact, batch 8": lambda: forward("fine_grained", 8, short),
        "front end pruned, batch 1": lambda: forward("conv_pruned", 1, short),
        "gated step": lambda: gated_step(short, folder),
        "load": lambda: load(short, folder),
        f"{SHORT_FILES if short else FILES:,} files to the first batch": lambda: first_batch(short, folder),
    }


def processor_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def main() -> None:
    name, short = sys.argv[1], sys.argv[2] == "short"
    with tempfile.TemporaryDirectory() as folder:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        run = measures(short, Path(folder))[name]()
        run()  # warms up
        print("READY", flush=True)
        for _ in sys.stdin:
            start = processor_seconds()
            left = run()
            taken = processor_seconds() - start
            if hasattr(left, "wait"):  # what goes on in threads must not reach into the next run
                left.wait()
            print(taken, flush=True)


if __name__ == "__main__":
    main()
