"""Which price of size keeps most: students of one size, pruned under different prices, on speech of unheard speakers.

    python -m benchmarks.controllers --speech DIR                          the grid, or what is missing of it
    python -m benchmarks.controllers --speech DIR --steps 300 --targets 0.67 --seeds 0 --prices multipliers,gentle
    python -m benchmarks.controllers --table                               the tables alone
    python -m benchmarks.controllers --speech DIR --choose --page rates --root runs/rates --prices 'one shot' \
        --set second_stage.learning_rate=1e-4                              settings, on speakers of their own

`DIR` holds real speech: manifest.csv (file, dur, speaker), as many speakers as may be. A fifth of the speakers is held
out. With `--choose` another fifth is asked instead, and nobody hears the first. The demo's teacher is pruned on the
others under each price, cut to the target to a row, and distilled further for half as many steps; then a linear map
from its layers is asked for the teacher's. Each run is a line of a JSON file under `--root`, so that an interrupted
grid goes on. Written: results/controllers.{md,json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from pruned_upstream.files import write_text
from pruned_upstream.miniature.demo import TEACHER
from pruned_upstream.model.checkpoint import load
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.training.prune import FIRST_STAGE_FILE, MODEL_FILE, PruneRecipe, run_prune
from pruned_upstream.training.recipe import load_recipe

from .measure import RESULTS, machine, race

SAMPLE_RATE = 16_000
HELD_OUT = 5  # every fifth speaker
SECONDS = 4.0  # of each recording that is asked,
FITTED, ASKED = 80, 50  # and how many recordings: maps are fitted on speakers that were heard, asked on others
GROUP = 10  # recordings heard at once
RIDGE = 1e-3  # of the mean variance
TIMED = 7  # rounds
PRICES = {
    # the multipliers' rate is what tuning chose for 400 steps (results/retention_tuning.md)
    "multipliers": ("sparsity.price=multipliers", "optimisation.multiplier_learning_rate=0.01"),
    "gentle": ("sparsity.price=gentle",),
    # no price at all: scores say what is cut, and all steps are the second stage's; its rate from results/rates.md
    "one shot": ("optimisation.steps=0", "second_stage.steps={all}", "second_stage.learning_rate=2e-4"),
}
GRID = {"steps": (300, 1200), "targets": (0.5, 0.67, 0.8), "seeds": (0, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.controllers", description="See the module's docstring.")
    parser.add_argument("--root", type=Path, default=Path("runs/controllers"))
    parser.add_argument("--speech", type=Path, help="a folder with manifest.csv")
    parser.add_argument("--prices", default=",".join(PRICES))
    parser.add_argument("--set", action="append", default=[], help="a recipe key for every run: key=value")
    for name, values in GRID.items():
        parser.add_argument(f"--{name}", default=",".join(map(str, values)))
    parser.add_argument("--page", default="controllers", help="name of the page in results/")
    parser.add_argument("--choose", action="store_true", help="ask the speakers that settings are chosen on")
    parser.add_argument("--table", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.speech is None:
            parser.error("--speech must name a folder with manifest.csv")
        bench = Bench(arguments.root, arguments.speech, choosing=arguments.choose)
        for steps in map(int, arguments.steps.split(",")):
            for target in map(float, arguments.targets.split(",")):
                for seed in map(int, arguments.seeds.split(",")):
                    for price in arguments.prices.split(","):
                        bench.run(price, steps, target, seed, arguments.set)
    write_tables(arguments.root, arguments.page, choosing=arguments.choose)


class Bench:
    """The teacher, the speech of two groups of speakers, and a folder for each run.

    choosing: ask another fifth of the speakers than is held out otherwise; those are left alone.
    """

    def __init__(self, root: Path, speech: Path, *, choosing: bool = False) -> None:
        self.root = root
        with open(speech / "manifest.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        speakers = sorted({row["speaker"] for row in rows})
        held_out, chosen_on = set(speakers[::HELD_OUT]), set(speakers[1::HELD_OUT])
        left_alone = held_out if choosing else set()
        asked = chosen_on if choosing else held_out
        self.heard = [speech / row["file"] for row in rows if row["speaker"] not in asked | left_alone]
        self.unheard = [speech / row["file"] for row in rows if row["speaker"] in asked]
        self.manifest = root / "heard.tsv"
        lines = [f"{path.relative_to(speech)}\t{soundfile.info(path).frames}" for path in self.heard]
        write_text(self.manifest, "\n".join([str(speech.resolve()), *lines]) + "\n")
        self.teacher = load(TEACHER)

    def run(self, price: str, steps: int, target: float, seed: int, changes: Sequence[str] = ()) -> None:
        name = run_name({"price": price, "steps": steps, "target": target, "seed": seed, "changes": changes})
        answer = self.root / "answers" / f"{name}.json"
        if answer.exists():
            return
        start = time.process_time()
        recipe = load_recipe(
            "demo",
            PruneRecipe,
            [
                f"teacher={TEACHER}",
                f"data.train={self.manifest}",
                "data.batch_utterances=4",
                "data.max_seconds=1.28",
                "data.workers=0",
                f"optimisation.steps={steps}",
                "optimisation.learning_rate=1e-3",
                f"second_stage.steps={steps // 2}",
                "second_stage.learning_rate=5e-4",
                f"sparsity.target={target}",
                "sparsity.exact=true",
                f"run.folder={self.root / 'students' / name}",
                f"run.seed={seed}",
                "run.device=cpu",
                *(change.format(all=steps + steps // 2) for change in PRICES[price]),
                *changes,
            ],
        )
        model = run_prune(recipe)
        report = json.loads((model.parent / "report.json").read_text())
        found = {
            "price": price,
            "changes": list(changes),
            "steps": steps,
            "target": target,
            "seed": seed,
            "gates_end_at": report["expected_sparsity"],
            "counted": report["counted_sparsity"],
            "parameters": report["parameters"],
            "cpu_seconds": time.process_time() - start,
            "after_cut": self.residuals(load(model.parent / FIRST_STAGE_FILE)),
            "after_second_stage": self.residuals(load(model.parent / MODEL_FILE)),
        }
        write_text(answer, json.dumps(found, indent=1) + "\n")
        print(json.dumps(found), flush=True)

    def residuals(self, student: Encoder) -> dict[str, float]:
        """Share of the teacher's layers, and of the last, that a linear map of the student's best layer leaves, in per
        cent: mean over the layers above the first quarter."""
        fitted, asked = (
            [self._frames(encoder, paths) for encoder in (student, self.teacher)]
            for paths in (self.heard[:: len(self.heard) // FITTED][:FITTED], self.unheard[:ASKED])
        )
        depth = self.teacher.config.num_layers
        shares = [_unexplained(fitted, asked, layer) for layer in range(2, depth + 1)]
        return {"layers": 100 * statistics.mean(shares), "last": 100 * shares[-1]}

    @torch.no_grad()
    def _frames(self, encoder: Encoder, paths: Sequence[Path]) -> Tensor:
        """(L + 1, frames, d) of every other frame."""
        found = []
        for start in range(0, len(paths), GROUP):
            waveforms, lengths = encoder.prepare(list(stretches(paths[start : start + GROUP])))
            output = encoder(waveforms, lengths)
            found.append(torch.stack(output.hidden_states)[:, ~output.padding_mask])
        return torch.cat(found, dim=1)[:, ::2]


def stretches(paths: Sequence[Path]) -> Iterator[Tensor]:
    for path in paths:
        samples, _ = soundfile.read(path, frames=round(SECONDS * SAMPLE_RATE), dtype="float32")
        yield torch.from_numpy(samples)


def _unexplained(fitted: Sequence[Tensor], asked: Sequence[Tensor], layer: int) -> float:
    """Of a teacher's layer; student and teacher are (L + 1, N, d) each. The student's layer is chosen on what maps are
    fitted to."""
    wanted, held_out = fitted[1][layer].double(), asked[1][layer].double()
    maps = [_ridge(states.double(), wanted) for states in fitted[0]]
    errors = [
        (wanted - _with_one(states.double()) @ linear).square().sum()
        for states, linear in zip(fitted[0], maps, strict=True)
    ]
    best = int(torch.stack(errors).argmin())
    left = held_out - _with_one(asked[0][best].double()) @ maps[best]
    return (left.square().sum() / (held_out - held_out.mean(0)).square().sum()).item()


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _ridge(x: Tensor, wanted: Tensor) -> Tensor:
    x = _with_one(x)
    penalty = RIDGE * len(x) * x.var(0).mean() * torch.eye(x.size(1), dtype=x.dtype)
    return torch.linalg.solve(x.t() @ x + penalty, x.t() @ wanted)


def write_tables(root: Path, page: str, *, choosing: bool = False) -> None:
    """results/PAGE.md and .json."""
    answers = [json.loads(path.read_text()) for path in sorted((root / "answers").glob("*.json"))]
    if not answers:
        raise SystemExit(f"there is no finished run under {root}")
    rows = [
        "| steps | target % | price | seeds | parameters (M) | ms for 10 s | gates end at % "
        "| unexplained after the cut % | after the second stage %: layers | last layer |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    _time(root, answers)
    common = [change for change in answers[0]["changes"] if all(change in answer["changes"] for answer in answers)]
    groups: dict[tuple[int, float, str], list[dict]] = {}
    for answer in answers:
        price = " ".join([answer["price"], *(change for change in answer["changes"] if change not in common)])
        groups.setdefault((answer["steps"], answer["target"], price), []).append(answer)
    for (steps, target, price), of_seeds in sorted(groups.items()):
        cells = [
            [100 * answer["gates_end_at"] for answer in of_seeds],
            [answer["after_cut"]["layers"] for answer in of_seeds],
            [answer["after_second_stage"]["layers"] for answer in of_seeds],
            [answer["after_second_stage"]["last"] for answer in of_seeds],
        ]
        shown = [f"{_all(cells[0], 1)}", *(_all(values, 3) for values in cells[1:])]
        size = statistics.mean(answer["parameters"] for answer in of_seeds) / 1e6
        times = _all([answer["milliseconds"] for answer in of_seeds], 0)
        rows.append(
            f"| {steps} | {100 * target:g} | {price} | {len(of_seeds)} | {size:.2f} | {times} | "
            + " | ".join(shown)
            + " |"
        )
    where = "; ".join(f"{key} {value}" for key, value in machine().items())
    shared = f" Set for all: {', '.join(common)}." if common else ""
    asked = " Asked of the speakers that settings are chosen on." if choosing else ""
    text = "\n".join(rows) + f"\n\nOne number for each seed.{asked}{shared} Measured on: {where}.\n"
    (RESULTS / f"{page}.md").write_text(text)
    (RESULTS / f"{page}.json").write_text(json.dumps({"machine": machine(), "answers": answers}, indent=1) + "\n")
    print(text)


def _time(root: Path, answers: Sequence[dict]) -> None:
    """Milliseconds for 10 s, on one thread, of all students in turn; kept with the answers."""
    if all("milliseconds" in answer for answer in answers):
        return
    torch.set_num_threads(1)
    waveform = torch.randn(1, 10 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    runs = {}
    for answer in answers:
        encoder = load(root / "students" / run_name(answer) / MODEL_FILE)
        runs[run_name(answer)] = partial(encoder, waveform)
    with torch.no_grad():
        timings = {timing.name: timing for timing in race(runs, repeats=TIMED, clock="cpu")}
    for answer in answers:
        answer["milliseconds"] = 1e3 * timings[run_name(answer)].median
        write_text(root / "answers" / f"{run_name(answer)}.json", json.dumps(answer, indent=1) + "\n")


def run_name(answer: Mapping[str, Any]) -> str:
    """Of the files of a run."""
    parts = [answer["price"], str(answer["steps"]), f"{answer['target']:g}", str(answer["seed"]), *answer["changes"]]
    return "_".join(parts).replace(" ", "_").replace("=", "-").replace("/", "_")


def _all(values: Sequence[float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


if __name__ == "__main__":
    main()
