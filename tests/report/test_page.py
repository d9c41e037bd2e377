"""The page: whole, self-contained, escaped, and true to the runs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pruned_upstream.description.macs import official_macs
from pruned_upstream.jobs import Failure
from pruned_upstream.model.size import count_parameters
from pruned_upstream.report.page import numbers, recipe_differences, write_page
from pruned_upstream.report.runs import read_run, read_runs
from pruned_upstream.report.scores_page import write_scores_page
from pruned_upstream.superb.results import write_results

pytest.importorskip("matplotlib")
lxml_html = pytest.importorskip("lxml.html")


def cells(document) -> dict[str, list[str]]:
    """Name of a row -> its cells, over all tables."""
    return {
        row[0].text_content(): [cell.text_content() for cell in row[1:]]
        for row in document.iter("tr")
        if row.getparent().tag == "tbody"
    }


def test_a_page_about_a_finished_run(pruned, tmp_path):
    run = read_run(pruned)
    write_page(tmp_path / "page.html", [run])
    text = (tmp_path / "page.html").read_text()
    document = lxml_html.document_fromstring(text)
    found = cells(document)
    config = run.header.config
    (said,) = found["status"]  # six steps reach no target
    reached = f"{run.outcome['counted_sparsity']:.1%}"
    assert said.startswith(f"finished; target missed: {reached} of attention and feed-forward was pruned where 50.0%")
    assert found["parameters"][0].startswith(f"{count_parameters(config):,} of {run.outcome['teacher_parameters']:,}")
    for name, macs in zip(("short", "medium", "long", "longer"), official_macs(config), strict=True):
        assert found[f"MACs (G), {name} utterances"][0].startswith(f"{macs.total / 1e9:.2f}")
    assert found["sparsity, target"] == ["50.00%"]
    assert found["sparsity, counted"] == [f"{run.outcome['counted_sparsity']:.2%}"]
    assert found["compact against gated, largest difference"] == [f"{run.outcome['difference_from_gated']:.1e}"]
    assert found["recordings skipped before training"] == ["0"]
    assert found["sparsity.target"] == ["0.8", "0.5"]  # of the base recipe, of the run
    assert "data.workers" not in found  # it changes nothing that is computed
    titles = [heading.text_content() for heading in document.iter("h2")]
    for title in ("Sparsity", "Gates over training", "Gates by layer: run", "Multipliers", "Pairing", "What survives"):
        assert title in titles
    assert "unfinished" not in text.partition("<body>")[2]


def test_the_page_needs_nothing_from_outside(pruned, tmp_path):
    write_page(tmp_path / "page.html", [read_run(pruned)])
    text = (tmp_path / "page.html").read_text()
    document = lxml_html.document_fromstring(text)
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not list(document.iter("script", "link", "iframe", "img"))
    references = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)""", text) + re.findall(r"url\(([^)]*)", text)
    assert references and all(reference.startswith(("#", "data:image/png;base64,")) for reference in references)
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {reference[1:] for reference in references if reference.startswith("#")} <= set(ids)
    assert "prefers-color-scheme: dark" in text
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in drawn and "#000000" not in drawn and "#ffffff" not in drawn


def test_an_unfinished_run_says_so(write_run, tmp_path):
    rows = [{"step": 10, "loss": 1.0, "distillation": 0.5, "sparsity": 0.1234, "target": 0.2, "seconds_per_step": 2.0}]
    write_page(tmp_path / "page.html", [read_run(write_run(rows, end='{"step": 2'))])
    document = lxml_html.document_fromstring((tmp_path / "page.html").read_text())
    (warning,) = document.find_class("unfinished")
    assert "by_hand is unfinished: step 10 of 40" in warning.text_content()
    assert "half written" in warning.text_content()
    found = cells(document)
    assert found["sparsity, expected"] == ["12.34%, so far"]
    assert found["distillation, mean of the last 5 % of steps"] == ["0.5"]
    assert found["training time"] == ["20 s"]
    assert "parameters" not in found


def test_a_finetuning_tells_what_it_has(write_run, tmp_path):
    recipe = "parp: {method: parp, sparsity: 0.5}\nteacher: wav2vec_small.pt\noptimisation: {steps: 40}"
    rows = [{"step": step, "loss": 3.0, "sparsity": 0.25, "revived": 7.0} for step in (20, 30)]
    write_page(tmp_path / "page.html", [read_run(write_run(rows, recipe=recipe))])
    document = lxml_html.document_fromstring((tmp_path / "page.html").read_text())
    found = cells(document)
    assert found["method"] == ["parp"]
    assert found["sparsity, target"] == ["50.00%"] and found["sparsity, expected"] == ["25.00%, so far"]
    assert found["loss, mean of the last 5 % of steps"] == ["3"]
    assert "Learning" in [heading.text_content() for heading in document.iter("h2")]


def test_a_run_without_a_line_of_metrics(write_run, tmp_path):
    write_page(tmp_path / "page.html", [read_run(write_run([]))])
    assert "begun, nothing reported yet" in (tmp_path / "page.html").read_text()


def test_runs_stand_side_by_side(write_run):
    other = "sparsity: {target: 0.8}\nteacher: other.pt\noptimisation: {steps: 40}\ngates: {straight_through: true}"
    runs = read_runs([write_run([{"step": 40, "loss": 1.0}], name="a"), write_run([], name="b", recipe=other)])
    table = numbers(runs)
    assert table.columns == ["a", "b"]
    rows = dict(table.rows)
    assert rows["teacher"] == ["teacher.pt", "other.pt"] and rows["loss, mean of the last 5 % of steps"] == ["1", "–"]
    grid = recipe_differences(runs)
    differences = dict(grid.rows)
    assert differences["sparsity.target"] == ["0.8", "0.5", "0.8"]
    assert differences["teacher"] == ["–", "teacher.pt", "other.pt"]  # no recipe can say it for all
    assert "gates.straight_through" not in differences
    marked = {(grid.rows[row][0], grid.columns[column]) for row, column in grid.marked}
    assert ("sparsity.target", "a") in marked and ("sparsity.target", "b") not in marked
    assert ("teacher", "a") not in marked


def test_text_from_files_is_escaped(write_run, tmp_path):
    nasty = '<img src="https://example.org/x">&amp;'
    recipe = f"sparsity: {{target: 0.5}}\nteacher: '{nasty}'\noptimisation: {{steps: 1}}"
    run = read_run(
        write_run([{"step": 1, "<b>loss</b>": 1.0, "sparsity": 0.5}], recipe=recipe), name="<script>1</script>"
    )
    run = replace(
        run, outcome={"skipped": {nasty: "<script>"}, "recordings": 1, "hours": 1.0}, launches=[{"command": nasty}]
    )
    write_page(tmp_path / "page.html", [run])
    text = (tmp_path / "page.html").read_text()
    document = lxml_html.document_fromstring(text)
    assert not list(document.iter("script", "img", "b"))
    assert document.find("head/title").text == "<script>1</script>"
    assert nasty in "".join(pre.text_content() for pre in document.iter("pre"))


def test_scores_of_a_runs_own_model_stand_in_its_column(pruned, write_run, make_results, tmp_path):
    runs = read_runs([pruned, write_run([], name="other")])
    own = replace(make_results(), checkpoint=str(runs[0].model))
    write_page(tmp_path / "page.html", runs, [own, make_results("fbank", tasks=("ks",), why_unofficial="short")])
    document = lxml_html.document_fromstring((tmp_path / "page.html").read_text())
    column = next(row for row in document.iter("tr") if row[0].text_content() == "superb_s")
    assert [cell.text_content() for cell in column[1:]] == ["769.62", "–"]
    assert any("fbank, not official" in note.text_content() for note in document.find_class("note"))
    assert "superb_s against parameters" in [heading.text_content() for heading in document.iter("h2")]


def test_a_page_about_the_tasks_tells_results_reasons_and_failures(make_results, tmp_path):
    results = make_results("<b>toy</b>", tasks=("ks", "sf"), why_unofficial="short training")
    write_scores_page(tmp_path, results, {"sid": Failure("VoxCeleb1 is missing")})
    document = lxml_html.document_fromstring((tmp_path / "report.html").read_text())
    found = cells(next(document.iter("table")))
    assert found["KS Acc ↑"][0] == "96.57" and not list(document.iter("b"))
    assert found["SF F1 ↑"][-1] == "no"
    assert "* sf is not official: short training" in [note.text_content() for note in document.find_class("note")]
    failed, missing = (note.text_content() for note in document.find_class("unfinished"))
    assert failed == "sid failed: VoxCeleb1 is missing" and "pr, asr" in missing
    assert [heading.text_content() for heading in document.iter("h2")] == [
        "Results", "Numbers", "Beside published models", "Tasks", "How it was made"
    ]  # fmt: skip


def test_the_command(pruned, make_results, tmp_path, exit_code, capsys):
    write_results(tmp_path / "scores", make_results())
    out = tmp_path / "out" / "page.html"
    assert exit_code("report", pruned, "--superb", tmp_path / "scores", "--out", out, "--title", "Six") == 0
    assert "run: finished" in capsys.readouterr().out
    assert "<title>Six</title>" in out.read_text()


def test_mistakes_end_with_a_sentence_and_code_2(write_run, tmp_path, exit_code, capsys):
    out = tmp_path / "page.html"
    assert exit_code("report", tmp_path / "absent", "--out", out) == 2
    assert "there is no run folder" in capsys.readouterr().err
    damaged = write_run([{"step": 2}], end="{\n")
    assert exit_code("report", damaged, "--out", out) == 2
    assert "line 2 is damaged" in capsys.readouterr().err
    assert exit_code("report", write_run([], name="a"), "--superb", tmp_path, "--out", out) == 2
    assert "holds no results.yaml" in capsys.readouterr().err
    assert not out.exists()
