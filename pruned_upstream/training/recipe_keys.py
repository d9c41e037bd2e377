"""What every key of a recipe means, read from the dataclasses: the comment beside a field is its documentation.

So a key is described in one place, where its default stands; `pruned-upstream recipes --keys` and docs/recipes.md show
the same sentences.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from .recipe import REQUIRED, Kind, key_kinds


@dataclass(frozen=True)
class RecipeKey:
    """One key.

    Attributes:
        name: "section.key".
        type: as Python writes it.
        default: as YAML would hold it; "required" where a recipe must give it.
        kind: what may become of it between the launches of a run.
        meaning: the comment beside it.
    """

    name: str
    type: str
    default: str
    kind: Kind
    meaning: str


@dataclass(frozen=True)
class RecipeSection:
    """Keys that stand together: "" for those without a section, else its name, and what the class says of itself."""

    name: str
    about: str
    keys: tuple[RecipeKey, ...]


def sections(schema: type) -> list[RecipeSection]:
    """All keys of a recipe class, section by section."""
    kinds, types = key_kinds(schema), get_type_hints(schema)
    inner = [field for field in dataclasses.fields(schema) if dataclasses.is_dataclass(types[field.name])]
    top = tuple(_keys(schema, kinds, ""))
    found = [RecipeSection("", _about(schema), top)] if top else []
    for field in inner:
        section = types[field.name]
        found.append(RecipeSection(field.name, _about(section), tuple(_keys(section, kinds, f"{field.name}."))))
    return found


def _keys(cls: type, kinds: dict[str, Kind], prefix: str) -> Iterator[RecipeKey]:
    types, comments = get_type_hints(cls), _comments(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(types[field.name]):
            continue
        name = prefix + field.name
        yield RecipeKey(name, str(field.type), _default(field), kinds[name], comments.get(field.name, ""))


def _default(field: dataclasses.Field[Any]) -> str:
    from omegaconf import OmegaConf

    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING or value == REQUIRED:
        return "required"
    return OmegaConf.to_yaml(OmegaConf.create([value])).removeprefix("- ").strip().replace("\n", " ")


def _about(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field, on its line or on the lines above; of inherited fields, the parent's."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if dataclasses.is_dataclass(parent):
            found |= _own_comments(parent)
    return found


def _own_comments(cls: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = list[str](), node.lineno - 1
            while line in comments and lines[line - 1].lstrip().startswith("#"):
                above.insert(0, comments[line])
                line -= 1
            own = [comments[node.end_lineno]] if node.end_lineno in comments else []
            if above or own:
                found[node.target.id] = " ".join(above + own)
    return found
