"""Does each of the ten tasks learn from its miniature corpus? Short trainings with true and with shuffled labels.

    python -m benchmarks.chance                after `pruned-upstream demo`, whose results are those with true labels
    python -m benchmarks.chance --run fbank    with FBANK in the place of the compact model

Labels are shuffled by shuffling the sound: the recordings of a training split trade their contents, names and labels
stay. Query by example has no training; there the queries trade places. Emotion's folds train and test on the same
recordings in turn, so there all are shuffled. Verification shares its files with identification: some of its trials are
shuffled, too.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from random import Random

from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.metrics import METRICS
from pruned_upstream.superb.results import read_results
from pruned_upstream.superb.running import Settings, run

from .measure import machine, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="the demo's folder")
    parser.add_argument("--run", default="compact", help="which of the demo's models")
    parser.add_argument("--root", type=Path, default=Path("runs/chance"))
    parser.add_argument("--tasks", help="some of the ten: ks,pr,...")
    arguments = parser.parse_args()
    true = read_results(arguments.demo / "superb" / arguments.run)
    report = run(
        Settings(
            folder=arguments.root / arguments.run,
            upstream=true.upstream,
            checkpoint=Path(true.checkpoint) if true.checkpoint else None,
            data=Data(shuffle(arguments.demo / "corpora", arguments.root / "corpora")),
            tasks=tuple(arguments.tasks.split(",")) if arguments.tasks else None,
            short=True,
            device="cpu",
        )
    )
    if report.failures:
        raise SystemExit("\n".join(f"{task}: {failure.reason}" for task, failure in report.failures.items()))
    rows = [
        {
            "metric": f"{name} ({'higher' if METRICS[name].higher_is_better else 'lower'} is better)",
            "true labels": round(true.metrics[name], 2),
            "shuffled labels": round(report.results.metrics[name], 2),
        }
        for name in METRICS
        if name in true.metrics and name in report.results.metrics
    ]
    write("chance", rows, machine(upstream=true.upstream), note="Short trainings on the miniature corpora.\n")


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
    yield (found for split, path in splits if split == "1" for found in voices.glob(f"*/wav/{path}"))
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
