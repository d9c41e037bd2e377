"""`pruned-upstream recipes`: which recipes come with the package, what one says, and what the keys mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import add, terminal

if TYPE_CHECKING:
    from ..training.recipe_keys import RecipeSection

KIND_NAMES = {
    "training": "equal in all launches of a run",
    "amendable": "may change on the way, with --amend",
    "evaluation": "may change at any launch",
    "launch": "changes no number",
    "input": "its content must stay",
}


def add_to(app: typer.Typer) -> None:
    """Add `recipes` to the command line."""
    add(app, recipes, "recipes", "recipes wavlm_base", "recipes --keys prune")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's file.", show_default=False)] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", help="The keys of prune, distill, parp or pretrain, with their meanings.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Keys as a Markdown page.")] = False,
) -> None:
    """List the recipes, print one, or explain the keys."""
    from rich.table import Table

    from ..resources import RECIPES, names, recipe_path
    from ..training.methods import METHODS, method_named
    from ..training.recipe_keys import sections

    console = terminal()
    if name is not None:
        console.print(recipe_path(name).read_text(encoding="utf-8"), soft_wrap=True)
    elif markdown:
        chosen = [method_named(keys)] if keys else METHODS.values()
        for method in chosen:
            typer.echo(as_markdown(method.name, sections(method.recipe_class)))
    elif keys is not None:
        for section in sections(method_named(keys).recipe_class):
            table = Table(title=section.name or "without a section", caption=section.about, title_justify="left")
            for column in ("key", "default", "meaning"):
                table.add_column(column, overflow="fold")
            for key in section.keys:
                table.add_row(key.name, key.default, key.meaning)
            console.print(table)
    else:
        table = Table(show_header=False, box=None)
        for known in names(RECIPES):
            table.add_row(known, first_sentence(recipe_path(known).read_text(encoding="utf-8")))
        console.print(table)
        console.print("one in full: pruned-upstream recipes NAME; the keys: pruned-upstream recipes --keys prune")


def first_sentence(text: str) -> str:
    """Of the comment that a recipe's file begins with."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    words = " ".join(comment)
    return words.partition(". ")[0].rstrip(".")


def as_markdown(method: str, sections: list[RecipeSection]) -> str:
    """A method's keys as tables."""
    lines = [f"## `{method}`", ""]
    for section in sections:
        title = f"`{section.name}`" if section.name else "Without a section"
        lines += [f"### {title} ({method})", "", section.about, ""]
        lines += ["| key | type | default | meaning | between launches |", "|---|---|---|---|---|"]
        for key in section.keys:
            kind = key.type.replace(" | None", " or null")  # a bar would end the cell
            cells = (f"`{key.name}`", f"`{kind}`", f"`{key.default}`", key.meaning, KIND_NAMES[key.kind])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
