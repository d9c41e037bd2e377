"""PARP against its baselines on what one core can do: sparsity, interval of pruning, languages, overlap of masks.

    python -m benchmarks.parp --digits FOLDER            # states the plan, then runs what is not finished yet
    python -m benchmarks.parp --digits FOLDER --page     # writes the page about what is finished

FOLDER holds the Free Spoken Digit Dataset (Jakobovski/free-spoken-digit-dataset): audio and a manifest.csv with the
columns file, dur (seconds), digit, official_split. The languages are spoken by espeak-ng. Runs lie in
runs/parp_benchmark, one folder each, and go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.miniature import speakers
from pruned_upstream.miniature.demo import TEACHER
from pruned_upstream.miniature.phones import is_pause
from pruned_upstream.miniature.plan import line_clip
from pruned_upstream.miniature.studio import record
from pruned_upstream.model.checkpoint import assemble, load, save
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.report.masks import compare_masks
from pruned_upstream.training.parp import MODEL_FILE, REPORT_FILE, ParpRecipe, run_parp
from pruned_upstream.training.recipe import load_recipe

from .measure import RESULTS, machine

FOLDER = Path("runs/parp_benchmark")
BUDGET = 45  # minutes of processor time for all runs together
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
LANGUAGES = {"english": "en-gb-x-rp", "german": "de", "spanish": "es"}
NUMBERS = 31  # 0 to 30 are said in each language
SEEDS = (0, 1, 2)
SPARSITIES = (0.5, 0.7, 0.9)
MIDDLE = 0.5  # of languages and extras
EARLY = ("parp_0.5_seed0_every50", "parp_english", "parp_german", "mpi_german", "mpi_german_by_mask_of_english")
LAYERS = 3  # the demo's teacher has 6; its lower half learns as fast in half the time
METHODS = ("rpi", "mpi", "omp", "parp", "parp_p")
STEPS = 200


@dataclass(frozen=True)
class Planned:
    """One run: a part of the page, a name, and what it changes in the recipe parp_demo."""

    part: str
    name: str
    changes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return FOLDER / self.part / self.name

    @property
    def recipe(self) -> ParpRecipe:
        common = (f"teacher={FOLDER / 'teacher.safetensors'}", f"run.folder={self.folder}", "run.device=cpu")
        return load_recipe("parp_demo", ParpRecipe, [*common, *self.changes])

    def outcome(self) -> dict[str, Any] | None:
        report = self.folder / REPORT_FILE
        return json.loads(report.read_text()) if report.is_file() else None


def plan() -> list[Planned]:
    """Every run, in the order in which they are done: what matters most first."""
    languages, extras = list(_languages()), list(_extras())
    early = [run for run in languages if run.name in EARLY] + [run for run in extras if run.name in EARLY]
    runs = [
        *_digits((0.5, 0.9), SEEDS[:1]),
        *_digits((0.5,), SEEDS[1:2]),
        *early,
        *_digits((0.5,), SEEDS[2:]),
        *_digits((0.9,), SEEDS[1:]),
        *languages,
        *_digits((0.7,), SEEDS),
        *extras,
    ]
    return list(dict.fromkeys(runs))


def _digits(sparsities: Sequence[float], seeds: Sequence[int]) -> Iterator[Planned]:
    for seed in seeds:
        if MIDDLE in sparsities:
            yield _digit_run("dense", 0.0, seed)
        for sparsity in sparsities:
            for method in METHODS:
                yield _digit_run(method, sparsity, seed)


def _extras() -> Iterator[Planned]:
    for seed in SEEDS:
        yield _digit_run("omp", MIDDLE, seed, "twice", f"optimisation.steps={2 * STEPS}")
        yield _digit_run("imp", MIDDLE, seed)
        for every in (1, 50):
            yield _digit_run("parp", MIDDLE, seed, f"every{every}", f"parp.every={every}")


def _digit_run(method: str, sparsity: float, seed: int, suffix: str = "", *changes: str) -> Planned:
    name = "_".join(filter(None, (method, f"{sparsity:g}", f"seed{seed}", suffix)))
    data = f"data.train={FOLDER / 'digits' / 'train.tsv'}", f"data.test={FOLDER / 'digits' / 'test.tsv'}"
    chosen = f"parp.method={method}", f"parp.sparsity={sparsity}", f"run.seed={seed}"
    return Planned("sweep", name, (*data, *chosen, f"optimisation.steps={STEPS}", *changes))


def _languages() -> Iterator[Planned]:
    for language in LANGUAGES:
        yield _language_run("parp", [language], language)
    for source in LANGUAGES:
        for language in LANGUAGES:
            if source != language:
                mask = FOLDER / "languages" / f"parp_{source}" / MODEL_FILE
                yield _language_run("mpi", [language], f"{language}_by_mask_of_{source}", f"parp.mask={mask}")
    for language in LANGUAGES:
        yield _language_run("mpi", [language], language)
    yield _language_run("parp", list(LANGUAGES), "all", f"optimisation.steps={2 * STEPS}")


def _language_run(method: str, languages: Sequence[str], name: str, *changes: str) -> Planned:
    def manifests(split: str) -> str:
        return ",".join(str(FOLDER / "speech" / language / f"{split}.tsv") for language in languages)

    data = f"data.train=[{manifests('train')}]", f"data.test=[{manifests('test')}]", "data.labels=phones"
    chosen = f"parp.method={method}", f"parp.sparsity={MIDDLE}"
    size = f"optimisation.steps={STEPS}", "data.batch_utterances=4"
    return Planned("languages", f"{method}_{name}", (*data, *chosen, *size, *changes))


def make_teacher() -> None:
    """The lower layers of the demo's teacher."""
    path = FOLDER / "teacher.safetensors"
    if path.is_file():
        return
    whole = load(TEACHER)
    config = dataclasses.replace(whole.config, layers=whole.config.layers[:LAYERS])
    wanted = Encoder(config).state_dict().keys()
    state = {name: tensor for name, tensor in whole.state_dict().items() if name in wanted}
    save(path, assemble(config, state, source=str(TEACHER)))


def make_digits(source: Path) -> None:
    """Manifests of the official split with the digits spelled out."""
    folder = FOLDER / "digits"
    if (folder / "test.wrd").is_file():
        return
    table = source / "manifest.csv"
    if not table.is_file():
        raise PrunedUpstreamError(f"there is no {table}; name the folder of the spoken digits with --digits")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        mine = [row for row in rows if row["official_split"] == split]
        listed = [f"{row['file']}\t{round(16000 * float(row['dur']))}" for row in mine]
        (folder / f"{split}.tsv").write_text("\n".join([str(source.resolve()), *listed]) + "\n")
        (folder / f"{split}.wrd").write_text("".join(WORDS[int(row["digit"])] + "\n" for row in mine))


def make_languages() -> None:
    """Numbers in each language, by other voices in training than in the test; the labels are espeak-ng's phones."""
    for number, (language, voice) in enumerate(LANGUAGES.items()):
        for split, pool, takes_each in (("train", speakers.TRAIN[:20], 10), ("test", speakers.TEST[:10], 10)):
            folder = FOLDER / "speech" / language
            if (folder / f"{split}.phn").is_file():
                continue
            rng = Random(f"{language} {split} {number}")
            clips = []
            for speaker in pool:
                for take in range(takes_each):
                    line = speaker.line(str(rng.randrange(NUMBERS)), rng)
                    line = type(line)(**{**vars(line), "language": voice})
                    clips.append(line_clip(f"{split}/{speaker.variant}-{take}.wav", line, rng))
            takes = record(clips, folder, workers=1)
            listed = [f"{take.path}\t{round(16000 * take.seconds)}" for take in takes]
            phones = [[_plain(p.label) for p in take.spoken[0].phones if not is_pause(p.label)] for take in takes]
            (folder / f"{split}.tsv").write_text("\n".join([".", *listed]) + "\n")
            written = [" ".join(filter(None, line)) + "\n" for line in phones]
            (folder / f"{split}.phn").write_text("".join(written))


def _plain(label: str) -> str:
    """A phone without its stress: ARPAbet's digit, or espeak-ng's marks; empty for an off-glide."""
    return label.strip("012',%;")


def run_missing(runs: Sequence[Planned]) -> None:
    """Runs that are not finished, until the budget is spent; each notes its processor time."""
    for run in runs:
        spent = sum(_cost(other) for other in runs)
        if run.outcome() is not None:
            continue
        if spent > 60 * BUDGET:
            print(f"the budget of {BUDGET} minutes is spent; {run.name} and what follows are not run")
            return
        start = time.process_time()
        run_parp(run.recipe)
        seconds = time.process_time() - start
        cost = run.folder / "seconds.json"
        cost.write_text(json.dumps(_cost(run) + seconds))
        rates = {Path(source).parent.name: rate for source, rate in run.outcome()["tests"].items()}
        print(f"{spent + seconds:7.0f} s  {run.part}/{run.name}: {rates}", flush=True)


def _cost(run: Planned) -> float:
    cost = run.folder / "seconds.json"
    return json.loads(cost.read_text()) if cost.is_file() else 0.0


def page(runs: Sequence[Planned]) -> None:
    """results/parp.md, .json and .png about all planned runs, finished or not."""
    outcomes = {(run.part, run.name): run.outcome() for run in runs}
    done = sum(outcome is not None for outcome in outcomes.values())
    rows = [_row(run, outcomes[run.part, run.name]) for run in runs if outcomes[run.part, run.name] is not None]
    spent = sum(_cost(run) for run in runs) / 60
    here = machine(clock="cpu", budget=f"{BUDGET} minutes")
    RESULTS.mkdir(exist_ok=True)
    overlaps = _overlaps(runs, outcomes)
    document = {"machine": here, "planned": len(runs), "done": done, "minutes": spent, "rows": rows}
    (RESULTS / "parp.json").write_text(json.dumps(document | {"overlaps": overlaps}, indent=1) + "\n")
    where = "; ".join(f"{key} {value}" for key, value in here.items())
    parts = [_INTRODUCTION.format(count=len(runs), budget=BUDGET, done=done, spent=spent)]
    if rows:
        parts += [_sweep(rows), _variants(rows), _between_languages(rows), _overlap_table(overlaps)]
        _draw(rows)
    discussion = RESULTS / "parp_discussion.md"
    if discussion.is_file():
        parts.append(discussion.read_text().strip())
    missing = [f"{part}/{name}" for (part, name), outcome in outcomes.items() if outcome is None]
    if rows and missing:
        parts.append("Planned and not run: " + ", ".join(missing) + ".")
    (RESULTS / "parp.md").write_text("\n\n".join([*filter(None, parts), f"Measured on: {where}."]) + "\n")


_INTRODUCTION = f"""# PARP and its baselines, small

## The plan, written before the first run
One core, at most {{budget}} minutes of processor time, {{count}} runs, all reported. Every run finetunes the lower
{LAYERS} of the 6 layers of the demo's teacher (WavLM shape, pre-trained on espeak-ng's English) with
recipes/parp_demo.yaml; {STEPS} updates unless said otherwise, the same for every method: omp spends half of them before
it prunes and half after ("omp twice" has {STEPS} each, as the papers count), imp a quarter in each of its four rounds.
1.33M weights (q, k, v, out, fc1, fc2) can be pruned.

* **sweep**: real spoken digits (Free Spoken Digit Dataset, 6 speakers, 900 training recordings of 6.6 minutes in all,
  300 test recordings), written letter by letter, greedy decoding. dense; {", ".join(METHODS)} at sparsities
  {", ".join(map(str, SPARSITIES))}; seeds {", ".join(map(str, SEEDS))}.
* **languages**: numbers from 0 to {NUMBERS - 1} by espeak-ng in {", ".join(LANGUAGES)}, recognised as phones, sparsity
  {MIDDLE}, one seed: parp and mpi in each language; a language with the fixed mask that parp found in another; one parp
  run on all together (twice the updates, its batches hold all languages). 200 training and 100 test recordings a
  language, by other voices; batches of 4.
* **extras**: at sparsity {MIDDLE}: omp with twice the updates, imp, and parp that prunes anew every 1 and every 50
  updates (elsewhere every 10).

What the paper leads one to expect: rpi worst; parp at least as good as omp and mpi; masks of different languages much
more alike than chance; a mask from another language nearly as good as one's own; the interval of little importance.

(A first plan had all 6 layers and 73 runs. It was stopped after 4 of them, since on a machine with other work they took
two to three minutes each; seed 0, word / character error rate: dense 50.0 / 22.3, and at 50 % rpi 56.0 / 27.0, mpi 63.0
/ 27.8, omp 47.7 / 22.0.)

{{done}} of {{count}} runs are finished; they took {{spent:.1f}} minutes."""


def _row(run: Planned, outcome: dict[str, Any]) -> dict[str, Any]:
    settings = run.recipe
    return {
        "part": run.part,
        "name": run.name,
        "method": settings.parp.method,
        "sparsity": outcome["sparsity"],
        "target": settings.parp.sparsity,
        "seed": settings.run.seed,
        "steps": settings.optimisation.steps,
        "every": settings.parp.every,
        "file_bytes": outcome["file_bytes"],
        "dense_bytes": outcome["dense_bytes"],
        "seconds": _cost(run),
        "tests": {Path(source).parent.name: rates for source, rates in outcome["tests"].items()},
    }


def _is_main(row: dict[str, Any]) -> bool:
    recipe_every = load_recipe("parp_demo", ParpRecipe, ["teacher=x", "data.train=x"]).parp.every
    return row["part"] == "sweep" and row["method"] != "imp" and row["steps"] == STEPS and row["every"] == recipe_every


def _sweep(rows: Sequence[dict[str, Any]]) -> str:
    found: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in filter(_is_main, rows):
        found[row["method"], row["target"]].append(row)
    lines = [
        "## Sparsity: spoken digits",
        "",
        "Word error rate / character error rate in %, mean ± standard deviation.",
        "",
    ]
    lines += [f"| method | {' | '.join(f'{s:.0%}' for s in SPARSITIES)} |", "|---|" + "---|" * len(SPARSITIES)]
    lines.append("| dense (0 %) |" + f" {_both(found['dense', 0.0])} |" * len(SPARSITIES))
    lines += [f"| {method} | {' | '.join(_both(found[method, s]) for s in SPARSITIES)} |" for method in METHODS]
    dense_of = {row["seed"]: row for row in found["dense", 0.0]}
    lines += [
        "",
        "The same as differences from the dense run of the same seed, since seeds differ more than methods do.",
        "",
    ]
    lines += [f"| method | {' | '.join(f'{s:.0%}' for s in SPARSITIES)} |", "|---|" + "---|" * len(SPARSITIES)]
    for method in METHODS:
        lines.append(f"| {method} | " + " | ".join(_paired(found[method, s], dense_of) for s in SPARSITIES) + " |")
    sizes = {row["target"]: row for row in rows if row["method"] == "parp" and _is_main(row)}
    stated = ", ".join(f"{row['file_bytes'] / 1e6:.2f} MB at {sparsity:.0%}" for sparsity, row in sorted(sizes.items()))
    dense = rows[0]["dense_bytes"] / 1e6
    lines += ["", "![error rate over sparsity](parp.png)", "", f"Model files: {stated}; dense {dense:.2f} MB."]
    return "\n".join(lines)


def _variants(rows: Sequence[dict[str, Any]]) -> str:
    def some(method: str, **wanted: Any) -> list[dict[str, Any]]:
        mine = [row for row in rows if row["part"] == "sweep" and row["method"] == method and row["target"] == MIDDLE]
        return [row for row in mine if all(row[key] == value for key, value in wanted.items())]

    table = {
        f"omp, {STEPS} updates": some("omp", steps=STEPS),
        f"omp, {2 * STEPS} updates": some("omp", steps=2 * STEPS),
        "imp, three prunings with rewinding": some("imp"),
        "parp, pruning every update": some("parp", every=1),
        "parp, every 10": some("parp", every=10),
        "parp, every 50": some("parp", every=50),
    }
    lines = [f"## More rounds, other intervals: spoken digits at {MIDDLE:.0%}", "", "| run | WER / CER |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {_both(members)} |" for name, members in table.items()])


def _between_languages(rows: Sequence[dict[str, Any]]) -> str:
    named = {row["name"]: row for row in rows if row["part"] == "languages"}
    lines = [f"## Languages at {MIDDLE:.0%}: phone error rate in %, one seed", ""]
    lines += [f"| mask | {' | '.join(LANGUAGES)} |", "|---|" + "---|" * len(LANGUAGES)]

    def cells(name: str) -> list[str]:
        return [_per(named.get(name.format(language)), language) for language in LANGUAGES]

    lines.append("| found by parp in the language itself | " + " | ".join(cells("parp_{}")) + " |")
    lines.append("| of the pre-trained weights, fixed (mpi) | " + " | ".join(cells("mpi_{}")) + " |")
    for source in LANGUAGES:
        row = [
            "-" if lang == source else _per(named.get(f"mpi_{lang}_by_mask_of_{source}"), lang) for lang in LANGUAGES
        ]
        lines.append(f"| found by parp in {source}, fixed | " + " | ".join(row) + " |")
    lines.append("| one run of parp for all three | " + " | ".join(cells("parp_all")) + " |")
    return "\n".join(lines)


def _overlaps(runs: Sequence[Planned], outcomes: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """Pairs of masks at the middle sparsity: between seeds, methods, tasks and languages."""
    by_name = {(run.part, run.name): run.folder for run in runs if outcomes[run.part, run.name] is not None}
    parp = [("sweep", f"parp_{MIDDLE:g}_seed{seed}") for seed in SEEDS]
    spoken = [("languages", f"parp_{language}") for language in LANGUAGES]
    pairs = {
        "two seeds, parp, digits": [(parp[0], parp[1]), (parp[0], parp[2]), (parp[1], parp[2])],
        "two languages, parp": [(spoken[0], spoken[1]), (spoken[0], spoken[2]), (spoken[1], spoken[2])],
        "a language and all together, parp": [(one, ("languages", "parp_all")) for one in spoken],
        "digits as letters and English numbers as phones, parp": [(parp[0], spoken[0])],
        "parp and mpi, digits, one seed": [(parp[0], ("sweep", f"mpi_{MIDDLE:g}_seed0"))],
        "omp and mpi, digits, one seed": [(("sweep", f"omp_{MIDDLE:g}_seed0"), ("sweep", f"mpi_{MIDDLE:g}_seed0"))],
        "two seeds, rpi, digits": [(("sweep", f"rpi_{MIDDLE:g}_seed0"), ("sweep", f"rpi_{MIDDLE:g}_seed1"))],
    }
    rows = []
    for title, members in pairs.items():
        folders = [(by_name[a], by_name[b]) for a, b in members if a in by_name and b in by_name]
        found = [next(iter(compare_masks(pair).values())) for pair in folders]
        if found:
            layers = {n: statistics.mean(one.layers[n] for one in found) for n in found[0].layers}
            kinds = {kind: statistics.mean(one.kinds[kind] for one in found) for kind in found[0].kinds}
            whole = statistics.mean(one.whole for one in found)
            rows.append(
                {
                    "masks": title,
                    "pairs": len(found),
                    "iou": whole,
                    "chance": found[0].chance,
                    "layers": layers,
                    "kinds": kinds,
                }
            )
    return rows


def _overlap_table(overlaps: Sequence[dict[str, Any]]) -> str:
    if not overlaps:
        return ""
    kinds, layers = list(overlaps[0]["kinds"]), list(overlaps[0]["layers"])
    heads = ["masks", "pairs", "all", "by chance", *kinds, *(f"layer {n}" for n in layers)]
    lines = [f"## Overlap of masks at {MIDDLE:.0%}: intersection over union in %", "", f"| {' | '.join(heads)} |"]
    lines.append("|---|" + "---|" * (len(heads) - 1))
    for row in overlaps:
        values = [row["iou"], row["chance"], *row["kinds"].values(), *row["layers"].values()]
        lines.append(
            f"| {row['masks']} | {row['pairs']} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |"
        )
    return "\n".join(lines)


def _both(rows: Sequence[dict[str, Any]]) -> str:
    return " / ".join(_spread([100 * row["tests"]["digits"][rate] for row in rows]) for rate in ("wer", "cer"))


def _paired(rows: Sequence[dict[str, Any]], dense: dict[int, dict[str, Any]]) -> str:
    def gap(row: dict[str, Any], rate: str) -> float:
        return 100 * (row["tests"]["digits"][rate] - dense[row["seed"]]["tests"]["digits"][rate])

    mine = [row for row in rows if row["seed"] in dense]
    return " / ".join(_spread([gap(row, rate) for row in mine], sign="+") for rate in ("wer", "cer"))


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "not run"
    return f"{statistics.mean(values):{sign}.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _per(row: dict[str, Any] | None, language: str) -> str:
    return "not run" if row is None else f"{100 * row['tests'][language]['per']:.1f}"


def _draw(rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, rate in zip(figure.subplots(1, 2), ("wer", "cer"), strict=True):
        for method in ("dense", *METHODS):
            points: dict[float, list[float]] = defaultdict(list)
            for row in rows:
                if _is_main(row) and row["method"] == method:
                    points[row["target"]].append(100 * row["tests"]["digits"][rate])
            if not points:
                continue
            x = sorted(points)
            means = [statistics.mean(points[s]) for s in x]
            if method == "dense":
                axes.axhline(means[0], color="grey", linestyle="--", label="dense")
                continue
            spreads = [statistics.stdev(points[s]) if len(points[s]) > 1 else 0.0 for s in x]
            axes.errorbar([100 * s for s in x], means, spreads, marker="o", capsize=3, label=method)
        axes.set(xlabel="sparsity (%)", ylabel=f"{rate.upper()} (%)")
        axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(RESULTS / "parp.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--page", action="store_true", help="write the page and run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = plan()
    page(runs)
    if not arguments.page:
        make_teacher()
        make_digits(arguments.digits)
        make_languages()
        run_missing(runs)
        page(runs)


if __name__ == "__main__":
    main()
