"""Writes the pages that follow from the code: `python docs/generate.py`. A test holds them against it.

recipes.md            the keys of all recipes, from the dataclasses
file-format.md        the layout of a model file, from the docstring of model/checkpoint.py
architecture/*.svg    rooms and arrows, from the imports
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "pruned_upstream"

RECIPES = """# Recipes and their keys

A recipe is a YAML file. Any key can be changed on the command line (`sparsity.target=0.5`), and a file of one's own may
begin with `base: wavlm_base` and say only what differs. `pruned-upstream recipes` lists the recipes that come with the
package, `pruned-upstream recipes wavlm_base` prints one; its comments give the reason for each value.

The last column says what may become of a key between the launches of one run ([runs](runs.md)).

"""

FORMAT = """# The model file

"""

# rooms of one layer stand beside each other; an arrow goes down, never up
LAYERS = (
    ("commands",),
    ("sweep", "miniature", "release", "doctor"),
    ("report", "prediction"),
    ("training", "superb"),
    ("s3prl_plugin", "export", "transformers_plugin"),
    ("parp", "distillation", "pruning"),
    ("description",),
    ("model",),
)
# small modules at the top of the package that every room may use
TOOLS = set("__init__ __version__ after_import errors extras files jobs machine parsing readme resources".split())
SAME_ROOM = {"cli": "commands", "run_downstream": "superb"}


def recipes_page() -> str:
    from pruned_upstream.commands.recipes import as_markdown
    from pruned_upstream.training.methods import METHODS
    from pruned_upstream.training.recipe_keys import sections

    parts = [as_markdown(name, sections(method.recipe_class)) for name, method in METHODS.items()]
    return RECIPES + "\n".join(parts)


def format_page() -> str:
    from pruned_upstream.model import checkpoint

    return FORMAT + (checkpoint.__doc__ or "").strip() + "\n"


def imports() -> dict[str, dict[str, list[str]]]:
    """Room -> room it imports -> where, as "file:line"; tools left out."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).parts
        package = place[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = package[: len(package) - (node.level - 1)]
            modules = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            for module in modules:
                target = (*base, *module)
                if target:
                    here, there = _room(place[0]), _room(target[0])
                    if here != there and not {here, there} & TOOLS:
                        found[here][there].append(f"{'/'.join(place)}:{node.lineno}")
    return {room: dict(targets) for room, targets in found.items()}


def module_imports() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, wherever in the file, but not for types alone."""
    names = {file: _dotted(file) for file in PACKAGE.rglob("*.py")}
    modules = set(names.values())
    found: dict[str, set[str]] = {}
    for file, name in names.items():
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        targets = set()
        for node in _nodes(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - (node.level - 1)] + (node.module.split(".") if node.module else [])
                inside = {".".join([*base, alias.name]) for alias in node.names}
                targets |= (inside & modules) or {".".join(base)}
        found[name] = targets - {name}
    return found


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, without those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _nodes(child)


def _dotted(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _reached(found: dict[str, dict[str, list[str]]], room: str) -> set[str]:
    """All rooms that a room imports, by way of others too."""
    reached: set[str] = set()
    waiting = [room]
    while waiting:
        for target in found.get(waiting.pop(), {}):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached


def _room(name: str) -> str:
    name = name.removesuffix(".py")
    return SAME_ROOM.get(name, name)


def rooms_picture() -> str:
    """The rooms as boxes, an arrow from each to the rooms that it imports; what an arrow reaches by way of another room
    is not drawn a second time."""
    width, row, box_height = 860, 92, 40
    centre: dict[str, tuple[float, float]] = {}
    boxes = []
    for number, layer in enumerate(LAYERS):
        for place, room in enumerate(layer):
            x, y = width * (place + 1) / (len(layer) + 1), 40 + number * row
            centre[room] = (x, y)
            half = 9 + 4.2 * len(room)
            boxes.append(
                f'<rect x="{x - half:.0f}" y="{y - box_height / 2:.0f}" width="{2 * half:.0f}" height="{box_height}" '
                f'rx="6" fill="white" stroke="black"/>'
                f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{room}</text>'
            )
    lines = []
    found = imports()
    for room, targets in sorted(found.items()):
        for target in sorted(targets):
            if any(target in _reached(found, other) for other in targets if other != target):
                continue
            (x1, y1), (x2, y2) = centre[room], centre[target]
            bend = (x1 + x2) / 2 + (60 if abs(y2 - y1) > 2 * row and abs(x1 - x2) < 40 else 0)
            start, end = y1 + box_height / 2, y2 - box_height / 2
            lines.append(
                f'<path d="M{x1:.0f},{start:.0f} Q{bend:.0f},{(start + end) / 2:.0f} {x2:.0f},{end:.0f}" fill="none" '
                'stroke="#888888" marker-end="url(#arrow)"/>'
            )
    height = 40 + len(LAYERS) * row - row / 2
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#888888"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" '
        f'font-size="14">{arrow}\n' + "\n".join(lines + boxes) + "\n</svg>\n"
    )


def pages() -> dict[Path, str]:
    return {
        DOCS / "recipes.md": recipes_page(),
        DOCS / "file-format.md": format_page(),
        DOCS / "architecture" / "rooms.svg": rooms_picture(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")
