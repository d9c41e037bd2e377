"""Acting before or after a module of another package is executed, whenever it is imported.

Finder and loader are what Python's import protocol asks for, without the base classes of `importlib.abc`: importing
those alone would cost a third of `import pruned_upstream`, and importing typing a half.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False  # as in the package's __init__
if TYPE_CHECKING:
    from typing import Any


def before(name: str, action: Callable[[], None]) -> None:
    """Call `action` when the module `name` is about to be executed, or now if it has been."""
    if name in sys.modules:
        action()
    else:
        _add(_finder().before, name, action)


def after(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call `action` with the module `name` once it is executed, or now if it has been."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        _add(_finder().after, name, action)


def cancel(name: str, action: Callable[..., None]) -> None:
    """Forget an action that has not happened yet."""
    for actions in (_finder().before, _finder().after):
        actions[name] = [pending for pending in actions.get(name, ()) if pending is not action]


class _Finder:
    """Lets the other finders find the module, then wraps the loader they chose."""

    def __init__(self) -> None:
        self.before: dict[str, list[Callable[..., None]]] = {}  # without arguments
        self.after: dict[str, list[Callable[..., None]]] = {}  # with the module

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname not in self.before and fullname not in self.after:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            wrapped: Any = _Loader(spec.loader, self)
            spec.loader = wrapped
        return spec


class _Loader:
    def __init__(self, loader: Any, finder: _Finder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        for action in self.finder.before.pop(name, ()):
            action()
        self.loader.exec_module(module)
        for action in self.finder.after.pop(name, ()):
            action(module)


def _add(actions: dict[str, list[Callable]], name: str, action: Callable) -> None:
    pending = actions.setdefault(name, [])
    if action not in pending:
        pending.append(action)


def _finder() -> _Finder:
    """The one finder of this process, first in line."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            return finder
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    return finder
