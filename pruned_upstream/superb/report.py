"""Tables of measured and published models: terminal, Markdown, CSV and LaTeX.

Three things are said wherever a number stands: whether it was measured or published by others, whether it is
official (a star otherwise), and which tasks are missing. A model without all ten tasks has no superb_s; the mean of
its points over the tasks it has stands in a column of its own.

Points place a result between those of FBANK and of WavLM Large, on official data and with the official training. So
results that are not official have none beside other models: toy data give thousands, or less than nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .metrics import METRICS, TASK_METRICS
from .published import PAPER, PublishedRow, published
from .results import RunResults
from .scores import LEADERBOARD, SUPERB_S, Scale, missing_tasks, on_tasks, partial_mean, truncate

if TYPE_CHECKING:
    from rich.table import Table as RichTable

BASELINES = ("DistilHuBERT", "DPHuBERT", PAPER)
ABSENT = "–"
STAR = "*"


@dataclass(frozen=True)
class Entry:
    """One model of a comparison.

    Attributes:
        metrics: metric key -> value in the papers' unit; missing tasks are absent.
        unofficial: task -> why its result is not official.
        remarks: what else the reader must know.
    """

    name: str
    origin: Literal["measured", "published"]
    metrics: dict[str, float]
    parameters: float | None = None
    macs: float | None = None
    unofficial: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @classmethod
    def measured(cls, results: RunResults) -> Entry:
        """The row of a run's results."""
        unofficial = {name: "; ".join(task.notes) for name, task in results.tasks.items() if not task.official}
        return cls(
            results.model,
            "measured",
            results.metrics,
            results.parameters,
            results.total_macs,
            unofficial=unofficial,
        )

    @classmethod
    def published(cls, row: PublishedRow) -> Entry:
        """The row of a published model."""
        remarks = (f"published: {row.source}",) + ((row.notes,) if row.notes else ())
        return cls(row.name, "published", dict(row.metrics), row.parameters, row.macs, remarks=remarks)

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks without a number."""
        return missing_tasks(self.metrics)

    @property
    def official_metrics(self) -> dict[str, float]:
        """Numbers of the tasks that were run as officially."""
        return on_tasks(self.metrics, tuple(task for task in TASK_METRICS if task not in self.unofficial))

    @property
    def superb_s(self) -> float | None:
        """superb_s of the official numbers; None while a task is missing."""
        return self._score(SUPERB_S)

    @property
    def leaderboard_score(self) -> float | None:
        """The leaderboard's Score; None while a task is missing."""
        return self._score(LEADERBOARD)

    def _score(self, scale: Scale) -> float | None:
        return None if self.missing else scale(self.metrics)

    def comparable(self, *, alone: bool = False) -> Entry:
        """The entry for what is made of points: with its official results alone, unless it stands alone."""
        return self if alone or not self.unofficial else dataclasses.replace(self, metrics=self.official_metrics)


def references(teacher: str, measured: Sequence[Entry] = ()) -> list[Entry]:
    """Whom a model is compared with: DistilHuBERT, DPHuBERT, the paper's model, and its teacher.

    Args:
        measured: where one of these has a reference's name, it is taken in place of the published row.

    Raises:
        DataError: nothing measured or published has the teacher's name.
    """
    by_name = {entry.name: entry for entry in measured}
    names = dict.fromkeys((*BASELINES, teacher))
    return [by_name[name] if name in by_name else Entry.published(published(name)) for name in names]


@dataclass(frozen=True)
class Table:
    """Text in cells; the first column names the rows. `better[row][column]` is None where nothing is compared."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    better: list[list[bool | None]] | None = None

    def markdown(self) -> str:
        """The table as GitHub's Markdown."""
        from tabulate import tabulate

        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.rows]
        body = tabulate(rows, self.header, tablefmt="github", disable_numparse=True, colalign=self._alignment())
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"### {self.title}\n\n{body}\n" + (f"\n{notes}" if notes else "")

    def latex(self) -> str:
        r"""A floating booktabs table over the full width, with its notes in print below it.

        It needs the packages booktabs and adjustbox, which shrinks what is wider than the page.
        """
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [
            "% \\usepackage{booktabs,adjustbox}",
            "\\begin{table*}[tbp]",
            "\\centering",
            f"\\caption{{{_latex(self.title)}}}\\smallskip",
            "\\footnotesize",
            "\\setlength{\\tabcolsep}{3pt}",
            "\\begin{adjustbox}{max width=\\textwidth}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            " & ".join(_latex_heading(title) for title in self.header) + " \\\\",
            "\\midrule",
            *[" & ".join(map(_latex, row)) + " \\\\" for row in self.rows],
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{adjustbox}",
        ]
        if self.notes:
            notes = [_latex(note) + "\\par" for note in self.notes]
            lines += ["\\par\\smallskip", "\\begin{minipage}{\\textwidth}", "\\scriptsize\\raggedright", *notes]
            lines.append("\\end{minipage}")
        return "\n".join([*lines, "\\end{table*}"]) + "\n"

    def terminal(self) -> RichTable:
        """The table on its side, one model per column: eleven metrics do not fit into the width of a terminal."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.title, title_justify="left")
        table.add_column("")
        for row in self.rows:
            table.add_column(row[0], justify="right", overflow="fold")
        for column in range(1, len(self.header)):
            cells = [Text(row[column], style=self._style(number, column)) for number, row in enumerate(self.rows)]
            table.add_row(self.header[column], *cells)
        return table

    def _style(self, row: int, column: int) -> str:
        better = None if self.better is None else self.better[row][column]
        return {True: "green", False: "red", None: ""}[better]

    def _alignment(self) -> tuple[str, ...]:
        return ("left", *["right"] * (len(self.header) - 1))


def overview(entries: Sequence[Entry]) -> Table:
    """One row per model: size, cost, eleven metrics, both scores.

    Beside other models, results that are not official have no points (see above).
    """
    alone = len(entries) == 1
    partial = any(entry.missing for entry in entries)
    header = ["Model", "Origin", "Params (M)", "MACs (G)", *_labels(), "superb_s", "Score"]
    rows = []
    for entry in entries:
        star = STAR if entry.unofficial else ""
        row = [entry.name, entry.origin, _scaled(entry.parameters, 1e6, 2), _scaled(entry.macs, 1e9, 1)]
        row += [_metric_cell(entry, key) for key in METRICS]
        pointed = entry.comparable(alone=alone)
        row.append(ABSENT if pointed.superb_s is None else truncate(pointed.superb_s) + star)
        row.append(ABSENT if pointed.leaderboard_score is None else f"{pointed.leaderboard_score:.0f}{star}")
        if partial:
            star = STAR if alone and entry.unofficial else ""
            mean = partial_mean(pointed.metrics)
            tasks = len(SUPERB_S.task_scores(pointed.metrics))
            row.append(ABSENT if mean is None else f"{truncate(mean)}{star} ({tasks}/{len(TASK_METRICS)})")
        rows.append(row)
    if partial:
        header.append("mean points (tasks)")
    return Table("SUPERB", header, rows, notes=_notes(entries, alone=alone))


def differences(entry: Entry, references: Sequence[Entry]) -> Table:
    """What `entry` has more or less than each reference, in the metrics' own units, on the tasks both have."""
    header = [f"{entry.name} minus", "Params (M)", "MACs (G)", *_labels(), "superb_s", "Score"]
    partial = bool(entry.missing) or any(reference.missing for reference in references)
    if partial:
        header.append("mean points over shared tasks")
    rows, better = [], []
    pointed = entry.comparable()
    for reference in references:
        other = reference.comparable()
        deltas = [
            (_minus(entry.parameters, reference.parameters, 1e6), 2, False),
            (_minus(entry.macs, reference.macs, 1e9), 1, False),
        ]
        starred = [False, False]
        for key, metric in METRICS.items():
            deltas.append((_minus(entry.metrics.get(key), reference.metrics.get(key)), 2, metric.higher_is_better))
            starred.append(metric.task in entry.unofficial or metric.task in reference.unofficial)
        deltas.append((_minus(pointed.superb_s, other.superb_s), 2, True))
        deltas.append((_minus(pointed.leaderboard_score, other.leaderboard_score), 0, True))
        if partial:
            shared = tuple(t for t in TASK_METRICS if t not in pointed.missing + other.missing)
            ours, theirs = (partial_mean(on_tasks(e.metrics, shared)) for e in (pointed, other))
            deltas.append((_minus(ours, theirs), 2, True))
        starred += [False] * (len(deltas) - len(starred))
        cells = [_signed(delta, digits) for delta, digits, _ in deltas]
        cells = [cell + STAR if star and cell != ABSENT else cell for cell, star in zip(cells, starred, strict=True)]
        rows.append([f"{reference.name} ({reference.origin})", *cells])
        judged = [
            None if star else _improves(delta, higher) for (delta, _, higher), star in zip(deltas, starred, strict=True)
        ]
        better.append([None, *judged])
    notes = [
        f"{STAR} {each.name}: results that are not official are not comparable with published ones, and have no points "
        f"({', '.join(each.unofficial)})"
        for each in (entry, *references)
        if each.unofficial
    ]
    return Table(f"{entry.name}: difference to", header, rows, notes=notes, better=better)


def to_csv(entries: Sequence[Entry]) -> str:
    """Plain numbers, one row per model; what is missing or not official is named, never left to guess.

    Scores are empty where `overview` has none.
    """
    alone = len(entries) == 1
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "origin", "parameters", "macs", *METRICS, "superb_s", "leaderboard_score", "missing_tasks"]
        + ["unofficial_tasks", "notes"]
    )
    for entry in entries:
        pointed = entry.comparable(alone=alone)
        score = "" if pointed.superb_s is None else truncate(pointed.superb_s)
        leaderboard = "" if pointed.leaderboard_score is None else f"{pointed.leaderboard_score:.2f}"
        writer.writerow(
            [entry.name, entry.origin, _plain(entry.parameters), _plain(entry.macs)]
            + [_plain(entry.metrics.get(key), 4) for key in METRICS]
            + [
                score,
                leaderboard,
                " ".join(entry.missing),
                " ".join(entry.unofficial),
                " | ".join(_notes([entry], alone=alone)),
            ]
        )
    return out.getvalue()


def _labels() -> list[str]:
    return [metric.label for metric in METRICS.values()]


def _metric_cell(entry: Entry, key: str) -> str:
    if key not in entry.metrics:
        return ABSENT
    return f"{entry.metrics[key]:.2f}" + (STAR if METRICS[key].task in entry.unofficial else "")


def _notes(entries: Sequence[Entry], *, alone: bool) -> list[str]:
    notes = []
    for entry in entries:
        if entry.missing:
            notes.append(f"{entry.name}: no superb_s, missing tasks: {', '.join(entry.missing)}")
        for why in dict.fromkeys(entry.unofficial.values()):
            tasks = [task for task, reason in entry.unofficial.items() if reason == why]
            notes.append(f"{STAR} {entry.name}, not official ({', '.join(tasks)}): {why}")
        if entry.unofficial and not alone:
            notes.append(f"{entry.name}: no points for results that are not official")
        notes += [f"{entry.name}: {remark}" for remark in entry.remarks]
    return [" ".join(note.split()) for note in notes]


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", "×": r"$\times$", ABSENT: "--",
    STAR: r"\textsuperscript{*}", "[": "{[}",  # a line that begins with one would be an option of the line before
}  # fmt: skip


def _latex(text: str) -> str:
    if text[:1] == "-" and text[1:2].isdigit():  # a minus, not a hyphen
        return "$-$" + _latex(text[1:])
    if text[-2:-1].isdigit() and text.endswith(STAR):  # behind the column, so that the digits stand below each other
        return _latex(text[:-1]) + rf"\rlap{{{_LATEX[STAR]}}}"
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_heading(title: str) -> str:
    """On two lines, broken at the blank next to the middle."""
    blanks = [place for place, character in enumerate(title) if character == " "]
    if not blanks:
        return _latex(title)
    middle = min(blanks, key=lambda place: abs(place - len(title) / 2))
    return rf"\shortstack{{{_latex(title[:middle])}\\{_latex(title[middle + 1 :])}}}"


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return ABSENT if value is None else f"{value / unit:.{digits}f}"


def _plain(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _minus(value: float | None, reference: float | None, unit: float = 1.0) -> float | None:
    return None if value is None or reference is None else (value - reference) / unit


def _signed(delta: float | None, digits: int) -> str:
    return ABSENT if delta is None else f"{delta:+.{digits}f}"


def _improves(delta: float | None, higher_is_better: bool) -> bool | None:
    return None if not delta else (delta > 0) == higher_is_better
