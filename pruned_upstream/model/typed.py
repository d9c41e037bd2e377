"""What a type checker is told about torch's containers; nothing of it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

Child = TypeVar("Child", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleListOf(nn.ModuleList, Generic[Child]):
        """An nn.ModuleList whose modules are all of one class."""

        def __iter__(self) -> Iterator[Child]: ...
        def __getitem__(self, index: int) -> Child: ...  # type: ignore[override]  # no slices of ours are taken
