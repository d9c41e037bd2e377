"""The pages: what follows from the code is up to date, links lead somewhere, and the site builds."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
DEFINITIONS = ("def ", "class ", "\n")  # of a function, a class, a constant
GENERATE = runpy.run_path(str(DOCS / "generate.py"))


def test_generated_pages_are_up_to_date():
    for path, text in GENERATE["pages"]().items():
        assert path.read_text(encoding="utf-8") == text, f"run `python docs/generate.py`: {path.name} is old"


def test_imports_go_one_way():
    layer_of = {room: number for number, layer in enumerate(GENERATE["LAYERS"]) for room in layer}
    imports = GENERATE["imports"]()
    assert imports.keys() <= layer_of.keys(), "a room that is not in the picture"
    for room, targets in imports.items():
        for target, places in targets.items():
            assert layer_of[target] > layer_of[room], f"{room} imports {target}, which is no room below it: {places}"


def test_modules_import_without_circles():
    """Late imports inside functions too, which hide a circle from Python and not from who reads."""
    graph = GENERATE["module_imports"]()
    assert "pruned_upstream.model.header" in graph["pruned_upstream.model.onnx_file"]
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_every_key_of_a_recipe_is_on_its_page():
    from pruned_upstream.training.methods import METHODS
    from pruned_upstream.training.recipe import key_kinds

    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        for name in key_kinds(method.recipe_class):
            assert f"`{name}`" in page, name
    assert [line for line in page.splitlines() if "|  |" in line] == [], "a key without a meaning"


def test_what_the_page_about_papers_names_is_there():
    page = (DOCS / "papers.md").read_text(encoding="utf-8")
    package = REPOSITORY / "pruned_upstream"
    files = re.findall(r"`([a-z0-9_/]+\.(?:py|yaml))`", page)
    assert len(files) > 30 and [name for name in files if not (package / name).is_file()] == []
    for row in (line for line in page.splitlines() if line.startswith("|")):
        for recipe in re.findall(r"recipes? `([a-z0-9_*]+)`", row):
            assert list((REPOSITORY / "recipes").glob(f"{recipe}.yaml")), recipe
        places = [package / name for name in re.findall(r"`([a-z0-9_/]+\.py)`", row)] or package.rglob("*.py")
        sources = [path.read_text(encoding="utf-8") for path in places]
        names = re.findall(r"`(?:[A-Z]\w+\.)?([A-Za-z]\w+|_\w+)`", row.rpartition("recipe")[2])
        known = {name for name in names if any(f"{word}{name}" in text for text in sources for word in DEFINITIONS)}
        assert set(names) - known - {path.stem for path in (REPOSITORY / "recipes").iterdir()} == set(), row


def test_a_loss_is_added_as_the_page_says(monkeypatch):
    import textwrap

    import torch

    from pruned_upstream.distillation import losses

    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "papers.md").read_text(encoding="utf-8"), flags=re.S)
    names = dict(vars(losses))
    exec(textwrap.dedent(example), names)
    monkeypatch.setitem(losses.LOSSES, "huber", names["huber"])
    far = losses.named_loss("huber")(torch.ones(1, 3, 2), torch.zeros(1, 3, 2), torch.tensor([[1.0, 1.0, 0.0]]))
    assert far.item() == pytest.approx(2 * 0.5)


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_every_page_has_its_place_in_the_menu():
    menu = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if not re.search(rf"[\[ ]{page.name}[,\]\n]", menu)] == []


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "expected_sparsity" in api
    assert "<blockquote" not in api, "an example outside a section Examples: would be taken for a quotation"
    assert "<details" not in api, "fields outside a section Attributes: would be taken for a note"
