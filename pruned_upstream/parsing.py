"""Text of unknown origin as plain data: bounded before it is built, held against what is wanted, fit to be shown."""

from __future__ import annotations

import errno
import json
import reprlib
import stat
from collections import Counter
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, DataError

if TYPE_CHECKING:
    import yaml

# what Python raises where data has another shape than the code that takes it apart expects; RecursionError is a
# RuntimeError, and what JSON and Unicode raise are ValueErrors
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

MAX_DEPTH = 32  # of lists and mappings within each other
MAX_YAML_BYTES = 1_000_000
MAX_YAML_NODES = 100_000  # once aliases are followed: ten short lines can stand for a billion values
MAX_INTEGER = 1 << 63
YAML_TAGS = "tag:yaml.org,2002:"
MERGE_TAG, INTEGER_TAG = f"{YAML_TAGS}merge", f"{YAML_TAGS}int"
MAX_DIGITS = 40  # of an integer in YAML, in any of its notations


def parse_json(text: str) -> Any:
    """JSON as plain data.

    Raises:
        ValueError: it is not JSON, is nested more than `MAX_DEPTH` deep, or holds an integer beyond 64 bits.
    """
    try:
        tree = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    level, depth = [tree], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        level = [child for node in level if isinstance(node, dict | list) for child in _children(node)]
        depth += 1
    return tree


def read_text(path: Path) -> str:
    """A UTF-8 file of a corpus.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        text = plain_file(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} is not UTF-8: see line {line}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path} is damaged: line {line} holds a zero byte")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file of a corpus; none of an empty one.

    They end where a file's lines end for s3prl, and not, as str.splitlines has it, at U+0085 or U+2028, too: text whose
    encoding was once mistaken holds such characters.

    Raises:
        DataError: as `read_text`.
    """
    text = read_text(path)
    return text.removesuffix("\n").split("\n") if text else []


def repeated(values: Iterable[str]) -> list[str]:
    """Those that come more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def plain_file(path: Path) -> Path:
    """The path, unless it leads to a pipe or a device, which would be waited for, or read without end.

    Raises:
        OSError: it does, or there is nothing.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
    return path


def read_json(path: Path) -> Any:
    """A JSON file as plain data.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`; or it is not UTF-8.
    """
    return parse_json(plain_file(path).read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """A YAML file as plain data.

    Raises:
        OSError: it cannot be read.
        ValueError: as `bounded_yaml`.
    """
    import yaml

    loader = _loader(bounded_yaml(path))
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, *MALFORMED) as error:
        raise ValueError(yaml_fault(error)) from error
    finally:
        loader.dispose()


def read_mapping(path: Path, what: str = "") -> dict[str, Any]:
    """A YAML file of keys and values as plain data.

    Args:
        what: said before the path where something is wrong with it.

    Raises:
        DataError: it cannot be read, or is no mapping.
    """
    try:
        tree = read_yaml(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{what}{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{what}{path} is not a mapping of keys to values")
    return tree


def bounded_yaml(path: Path) -> str:
    """The text of a YAML file that is no larger than such files are, also when its aliases are followed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, too large, nested too deep, refers to itself, or a value is none of the kind that
            its tag names. Its text is not quoted, for the path may lead to a file that is nobody's business.
    """
    with open(plain_file(path), "rb") as file:
        raw = file.read(MAX_YAML_BYTES + 1)
    if len(raw) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES / 1e6:g} MB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    check_yaml(text)
    return text


def check_yaml(text: str) -> None:
    """Refuse YAML that `bounded_yaml` refuses. Raises ValueError."""
    import yaml

    try:
        root = _composed(text)
        nodes = 0 if root is None else _expanded(root, {}, 0)
    except (yaml.YAMLError, *MALFORMED) as error:
        raise ValueError(yaml_fault(error)) from error
    if nodes > MAX_YAML_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_YAML_NODES:,} values")


def printable(text: str) -> str:
    """Text with everything escaped that would steer a terminal or cannot be encoded; line breaks and tabs stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def shown(value: object) -> str:
    """A value as a message quotes it: like repr(), never long."""
    return _SHORT.repr(value)


def require(condition: bool, name: str, value: object, wanted: str) -> None:
    """Refuse a setting's value: "<name> is <value>; it must <wanted>". Conditions say what is right, so NaN is refused.

    Raises:
        ConfigError: `condition` is false.
    """
    if not condition:
        raise ConfigError(f"{name} is {shown(value)}; it must {wanted}")


def require_seconds(name: str, value: object) -> None:
    """Refuse what is no length of time in seconds. Raises ConfigError: it is no number between -1e9 and 1e9."""
    number: Any = value
    known = isinstance(value, Real) and not isinstance(value, bool) and abs(number) < 1e9
    require(known, name, value, "be a number of seconds below 1e9")


def require_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a word that is no choice. Raises ConfigError, which names the choices."""
    require(value in (known := list(choices)), name, value, f"be one of {', '.join(known)}")


def as_utf8(text: str) -> str:
    """Text that can be written to a file and shown: what is none, of names that are not UTF-8, is escaped.

    >>> as_utf8("caf\\udce9")
    'caf\\\\xe9'
    """
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair that no name of a file holds
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def is_text(value: object) -> bool:
    """Whether it is a string that can be written to a file; one with half a surrogate pair cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Short(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write numbers of more than some thousand digits."""
        return repr(value) if abs(value) < MAX_INTEGER else "a number of astronomical size"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 3


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -MAX_INTEGER <= int(digits) < MAX_INTEGER:
        raise ValueError("it holds an integer beyond 64 bits")
    return int(digits)


def _children(node: dict[str, Any] | list[Any]) -> Any:
    return node.values() if isinstance(node, dict) else node


def _loader(text: str) -> yaml.SafeLoader:
    """As PyYAML's, which takes quadratic time for what is nested deep, and seconds for each million values; and which
    speaks Python where a value is none of its kind."""
    import yaml

    class Bounded(yaml.SafeLoader):
        depth = nodes = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            self.depth, self.nodes = self.depth + 1, self.nodes + 1
            if self.depth > MAX_DEPTH + 1:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            if self.nodes > MAX_YAML_NODES:
                raise ValueError(f"it holds more than {MAX_YAML_NODES:,} values")
            tagged = getattr(self.peek_event(), "tag", None) is not None
            node = super().compose_node(parent, index)
            if tagged and isinstance(node, yaml.ScalarNode):
                _check_digits(node)
                self.construct_object(node)  # other loaders, to whom this text may go, build such values alike
            self.depth -= 1
            return node

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            is_scalar = isinstance(node, yaml.ScalarNode)
            if node.tag not in self.yaml_constructors:
                raise _at(node, "the tag here is none of YAML's own")
            try:
                return super().construct_object(node, deep or is_scalar)
            except (yaml.YAMLError, *MALFORMED) as error:
                if not is_scalar:
                    raise
                kind = node.tag.removeprefix(YAML_TAGS)
                raise _at(
                    node, f"this is no {kind}; if it is meant as text, put it in quotes and leave out any tag"
                ) from error

    return Bounded(text)


def _composed(text: str) -> yaml.Node | None:
    loader = _loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _at(node: yaml.Node, problem: str) -> yaml.YAMLError:
    import yaml

    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_digits(node: yaml.Node) -> None:
    if node.tag == INTEGER_TAG and len(node.value) > MAX_DIGITS:
        raise ValueError(f"line {node.start_mark.line + 1} holds an integer of {len(node.value)} digits")


def _no_key_twice(node: yaml.Node) -> None:
    """YAML forbids it; PyYAML takes the last one, and what stood before is silently lost."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    keys = set()
    for key, _ in node.value:
        if isinstance(key.value, str) and key.tag != MERGE_TAG:
            if (key.tag, key.value) in keys:
                raise ValueError(f"line {key.start_mark.line + 1} gives a key a second time")
            keys.add((key.tag, key.value))


def _expanded(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """Nodes below and with `node`, each counted as often as aliases name it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(node.value, str):
        _check_digits(node)
        return 1
    if id(node) not in known:
        known[id(node)] = None
        _no_key_twice(node)
        children = (child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_expanded(child, known, depth + 1) for child in children)
    count = known[id(node)]
    if count is None:
        raise ValueError("a value in it contains itself")
    return count


def yaml_fault(error: Exception) -> str:
    """Where YAML is wrong, and how; without the text that stands there."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"
    if isinstance(error, RecursionError):
        return f"it is nested more than {MAX_DEPTH} deep"
    return printable(str(error).splitlines()[0]) if str(error) else type(error).__name__
