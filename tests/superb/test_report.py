"""Tables: the numbers in them, and what must be said beside a number."""

from __future__ import annotations

import csv
import io

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
    assert "not official" in differences(entry, references(TEACHER)).notes[0]


def test_one_task_that_is_not_official_stars_itself_and_the_scores(make_results):
    whole, short = make_results(), make_results(tasks=("ks",), why_unofficial="other test list")
    whole.tasks["ks"] = short.tasks["ks"]
    table = overview([Entry.measured(whole)])
    starred = [title for title, cell in zip(table.header, table.rows[0], strict=True) if cell.endswith("*")]
    assert starred == ["KS Acc ↑", "superb_s", "Score"]


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


def test_latex_escapes_names_and_keeps_notes_as_comments(make_results):
    text = overview([Entry.measured(make_results("our_model & 50%", why_unofficial="one\ntwo"))]).latex()
    assert r"our\_model \& 50\%" in text and r"superb\_s" in text and r"$\uparrow$" in text
    body = text[text.index(r"\begin{tabular}") :]
    assert all(line.startswith("%") for line in text[: text.index(r"\begin{tabular}")].splitlines())
    assert body.rstrip().endswith(r"\end{tabular}") and r"\toprule" in body


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
