"""Tables: the numbers in them, and what must be said beside a number."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess

import pytest
from rich.console import Console

from pruned_upstream.superb.metrics import METRICS
from pruned_upstream.superb.published import PAPER, TEACHER, published, published_rows
from pruned_upstream.superb.report import ABSENT, Entry, differences, overview, references, to_csv


def column(table, title: str) -> list[str]:
    return [row[table.header.index(title)] for row in table.rows]


def test_a_run_beside_its_four_baselines(make_results):
    table = overview([Entry.measured(make_results()), *references(TEACHER)])
    assert column(table, "Model") == ["ours", "DistilHuBERT", "DPHuBERT", PAPER, "WavLM Base"]
    assert column(table, "Origin") == ["measured", "published", "published", "published", "published"]
    assert column(table, "Params (M)") == ["26.57", "23.49", "23.59", "26.57", "94.70"]
    assert column(table, "MACs (G)") == ["600.0", "785.3", "654.1", ABSENT, "1670.0"]
    assert column(table, "PR PER ↓") == ["9.09", "16.27", "9.67", "9.09", "4.84"]
    assert column(table, "superb_s") == ["769.62", "647.88", "771.61", "769.62", "895.99"]
    assert column(table, "Score") == ["864", "717", "866", "864", "1019"]
    assert "mean points (tasks)" not in table.header


def test_a_partial_result_has_no_superb_s_and_says_what_is_missing(make_results):
    table = overview([Entry.measured(make_results(tasks=("pr", "ks")))])
    assert column(table, "superb_s") == column(table, "Score") == column(table, "ASR WER ↓") == [ABSENT]
    # (82.01 - 9.09) / (82.01 - 3.06) and (96.57 - 41.38) / (97.86 - 41.38)
    assert column(table, "mean points (tasks)") == ["950.39 (2/10)"]
    assert table.notes == ["ours: no superb_s, missing tasks: asr, qbe, sid, sv, sd, ic, sf, er"]


def test_a_result_that_is_not_official_is_starred_wherever_it_stands(make_results):
    entry = Entry.measured(make_results(why_unofficial="200 steps instead of 200000"))
    table = overview([entry])
    (row,) = table.rows
    numbers = row[table.header.index("PR PER ↓") :]
    assert len(numbers) == 13 and all(cell.endswith("*") for cell in numbers)
    assert "200 steps instead of 200000" in table.notes[0] and "not official" in table.notes[0]
    beside = differences(entry, references(TEACHER))
    assert "not official" in beside.notes[0]
    assert all(cell.endswith("*") for cell in beside.rows[0][3:-2])
    assert not any(beside.better[0][3:-2]), "nothing is better or worse than what it cannot be compared with"


def test_one_task_that_is_not_official_stars_itself_and_the_scores(make_results):
    whole, short = make_results(), make_results(tasks=("ks",), why_unofficial="other test list")
    whole.tasks["ks"] = short.tasks["ks"]
    table = overview([Entry.measured(whole)])
    starred = [title for title, cell in zip(table.header, table.rows[0], strict=True) if cell.endswith("*")]
    assert starred == ["KS Acc ↑", "superb_s", "Score"]


def test_results_that_are_not_official_have_no_points_beside_other_models(make_results):
    """Toy data once gave 3907.55 and -1195 points in a comparison with published models."""
    toy = {"pr.per": 97.0, "qbe.mtwv": 90.0, **{key: 50.0 for key in METRICS if key not in ("pr.per", "qbe.mtwv")}}
    entry = Entry.measured(make_results("toy", metrics=toy, why_unofficial="toy data"))
    assert entry.superb_s is not None
    table = overview([entry, *references(TEACHER)])
    assert column(table, "superb_s")[0] == column(table, "Score")[0] == ABSENT
    assert "toy: no points for results that are not official" in table.notes
    beside = differences(entry, references(TEACHER))
    cells = dict(zip(beside.header, beside.rows[0], strict=True))
    assert cells["superb_s"] == cells["Score"] == ABSENT
    rows = list(csv.DictReader(io.StringIO(to_csv([entry, *references(TEACHER)]))))
    assert rows[0]["superb_s"] == rows[0]["leaderboard_score"] == "" and rows[1]["superb_s"] == "647.88"


def test_a_mean_beside_other_models_is_taken_over_official_tasks_alone(make_results):
    part, toy = make_results(tasks=("pr", "ks")), make_results(tasks=("ks",), why_unofficial="toy data")
    part.tasks["ks"] = toy.tasks["ks"]
    table = overview([Entry.measured(part), *references(TEACHER)])
    assert column(table, "mean points (tasks)")[0] == "923.62 (1/10)"  # (82.01 - 9.09) / (82.01 - 3.06)
    rows = differences(Entry.measured(part), [Entry.published(published("DPHuBERT"))])
    assert rows.rows[0][-1] == f"{1000 * (9.67 - 9.09) / (82.01 - 3.06):+.2f}"
    alone = overview([Entry.measured(part)])
    assert column(alone, "mean points (tasks)")[0].endswith("* (2/10)")


def test_differences_know_which_way_is_better(make_results):
    table = differences(Entry.measured(make_results()), references(TEACHER))
    ours_minus = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    distil = ours_minus["DistilHuBERT (published)"]
    assert (distil["Params (M)"], distil["MACs (G)"]) == ("+3.08", "-185.3")
    assert (distil["PR PER ↓"], distil["KS Acc ↑"], distil["superb_s"]) == ("-7.18", "+0.59", "+121.74")
    better = dict(zip(table.header, table.better[0], strict=True))
    assert better["PR PER ↓"] and better["KS Acc ↑"] and better["superb_s"] and better["MACs (G)"]
    assert better["Params (M)"] is False
    same = dict(zip(table.header, table.better[2], strict=True))
    assert same["PR PER ↓"] is None, "neither better nor worse than itself"


def test_partial_differences_compare_shared_tasks_only(make_results):
    table = differences(Entry.measured(make_results(tasks=("ks",))), [Entry.published(published("DPHuBERT"))])
    (row,) = table.rows
    cells = dict(zip(table.header, row, strict=True))
    assert cells["superb_s"] == cells["PR PER ↓"] == ABSENT
    assert cells["mean points over shared tasks"] == f"{1000 * (96.57 - 96.36) / (97.86 - 41.38):+.2f}"


def test_csv_keeps_numbers_plain_and_names_what_is_wrong(make_results):
    partial = make_results(tasks=("ks",), why_unofficial="20 steps,\nlater more")
    entries = [Entry.measured(partial), *map(Entry.published, published_rows())]
    rows = list(csv.DictReader(io.StringIO(to_csv(entries))))
    assert len(rows) == 1 + len(published_rows())
    assert rows[0]["origin"] == "measured" and {row["origin"] for row in rows[1:]} == {"published"}
    assert float(rows[0]["ks.acc"]) == 96.57 and rows[0]["pr.per"] == rows[0]["superb_s"] == ""
    assert rows[0]["missing_tasks"] == "pr asr qbe sid sv sd ic sf er" and rows[0]["unofficial_tasks"] == "ks"
    assert "20 steps, later more" in rows[0]["notes"]
    paper = next(row for row in rows if row["model"] == PAPER)
    assert {key: float(paper[key]) for key in METRICS} == dict(published(PAPER).metrics)
    assert paper["superb_s"] == "769.62" and float(paper["parameters"]) == 26.57e6


def test_markdown_has_one_line_a_model_and_escapes_names(make_results):
    text = overview([Entry.measured(make_results("a|b")), *references(TEACHER)]).markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5
    assert r"a\|b" in lines[2] and "published" in lines[3]
    assert all(line.replace(r"\|", "").count("|") == lines[0].count("|") for line in lines)


def test_latex_escapes_names_and_prints_its_notes(make_results):
    text = overview([Entry.measured(make_results("our_model & 50%", why_unofficial="one\ntwo #3"))]).latex()
    assert r"our\_model \& 50\%" in text and r"superb\_s" in text and r"$\uparrow$" in text
    body = text[text.index(r"\end{tabular}") :]
    assert r"\textsuperscript{*} our\_model \& 50\%, not official" in body and r"one two \#3" in body
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert comments == [r"% \usepackage{booktabs,adjustbox}"]


def test_latex_that_a_compiler_takes(make_results, tmp_path):
    """With every sign that means something to it, on a page of two columns; nothing sticks out."""
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("no pdflatex")
    strange = make_results(r"[a] \ {b} $c$ #d ~e ^f <g> |h|", why_unofficial="1 % of the data & no_more")
    entries = [Entry.measured(strange), Entry.measured(make_results(tasks=("ks",))), *references(TEACHER)]
    tables = [overview(entries), differences(entries[0], entries[1:])]
    (tmp_path / "page.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs,adjustbox}\n\\begin{document}\n"
        + "\n".join(table.latex() for table in tables)
        + "\\end{document}\n"
    )
    ran = subprocess.run(
        [compiler, "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "adjustbox.sty' not found" in ran.stdout:
        pytest.skip("no adjustbox")
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "Overfull" not in ran.stdout and "Output written on page.pdf" in ran.stdout


def test_the_terminal_shows_every_number(make_results):
    console = Console(width=120, record=True, file=io.StringIO())
    table = overview([Entry.measured(make_results()), *references(TEACHER)])
    console.print(table.terminal())
    text = console.export_text()
    for number in ("769.62", "895.99", "16.27", "published"):
        assert number in text


@pytest.mark.parametrize("name", [row.name for row in published_rows()])
def test_every_published_row_names_its_source_in_the_notes(name):
    table = overview([Entry.published(published(name))])
    assert any("published:" in note for note in table.notes)
    assert column(table, "Origin") == ["published"]
