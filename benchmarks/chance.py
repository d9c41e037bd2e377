"""Does each of the ten tasks learn from its miniature corpus? Short trainings with true and with shuffled labels.

    python -m benchmarks.chance                     after `pruned-upstream demo`, on its corpora and its compact model
    python -m benchmarks.chance --upstream fbank_no_cmvn

Labels are shuffled by shuffling the sound: the recordings of a training split trade their contents, names and labels
stay. Query by example has no training; there the queries trade places. Emotion's folds train and test on the same
recordings in turn, so there all are shuffled.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from random import Random

from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.metrics import METRICS
from pruned_upstream.superb.running import Settings, run

from .measure import machine, write

DEMO = Path("runs/demo")


def main() -> None:
    parser = argparse.ArgumentParser(description="Short trainings with true and with shuffled labels.")
    parser.add_argument("--corpora", type=Path, default=DEMO / "corpora")
    parser.add_argument("--model", type=Path, default=DEMO / "prune" / "compact.safetensors")
    parser.add_argument("--upstream", default="pruned_upstream", help="another one needs no --model")
    parser.add_argument("--root", type=Path, default=Path("runs/chance"))
    parser.add_argument("--tasks")
    arguments = parser.parse_args()
    shuffled = shuffle(arguments.corpora, arguments.root / "corpora")
    results = {}
    for labels, corpora in (("true", arguments.corpora), ("shuffled", shuffled)):
        settings = Settings(
            folder=arguments.root / arguments.upstream / labels,
            upstream=arguments.upstream,
            checkpoint=arguments.model if arguments.upstream == "pruned_upstream" else None,
            data=Data(corpora),
            tasks=tuple(arguments.tasks.split(",")) if arguments.tasks else None,
            short=True,
            device="cpu",
        )
        report = run(settings)
        if report.failures:
            raise SystemExit("\n".join(f"{task}: {failure.reason}" for task, failure in report.failures.items()))
        results[labels] = report.results.metrics
    rows = [
        {
            "metric": f"{name} ({'higher' if METRICS[name].higher_is_better else 'lower'} is better)",
            "true labels": round(results["true"][name], 2),
            "shuffled labels": round(results["shuffled"][name], 2),
        }
        for name in METRICS
        if name in results["true"]
    ]
    write("chance", rows, machine(upstream=arguments.upstream), note="Short trainings on the miniature corpora.")


def shuffle(corpora: Path, root: Path) -> Path:
    """A copy of the corpora whose training recordings have traded their contents."""
    if root.exists():
        return root
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(corpora, unfinished)
    for number, recordings in enumerate(_training_sets(unfinished)):
        _trade(sorted(recordings), Random(number))
    unfinished.rename(root)
    return root


def _training_sets(root: Path) -> Iterable[Iterable[Path]]:
    yield (root / "LibriSpeech" / "train-clean-100").rglob("*.flac")
    commands = root / "speech_commands_v0.01"
    yield (path for path in commands.glob("*/*.wav") if not path.parent.name.startswith("_"))
    yield (root / "quesst14Database").glob("*queries/*.wav")
    voices = root / "VoxCeleb1"
    splits = (line.split() for line in (voices / "veri_test_class.txt").read_text().splitlines())
    yield (voices / "dev" / "wav" / path for split, path in splits if split == "1")
    yield (root / "diarization" / "train" / "wav").glob("*.wav")
    yield (root / "fluent_speech_commands_dataset" / "wavs" / "speakers").glob("*/train-*.wav")
    yield (root / "SNIPS" / "train").glob("*.wav")
    yield (root / "IEMOCAP").rglob("sentences/wav/*/*.wav")


def _trade(recordings: list[Path], rng: Random) -> None:
    """Each file gets the contents of another one, at random."""
    if not recordings:
        raise SystemExit("a training set is missing in the corpora; build them with `pruned-upstream corpora`")
    contents = [path.read_bytes() for path in recordings]
    rng.shuffle(contents)
    for path, content in zip(recordings, contents, strict=True):
        path.write_bytes(content)


if __name__ == "__main__":
    main()
