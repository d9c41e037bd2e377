"""What others published, to compare with; `published.yaml` holds the rows, each with its source.

Nothing here was measured by this package: a table, csv or plot that shows a row says `published` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from ..errors import DataError

PAPER = "structured pruning (paper)"
TEACHER = "WavLM Base"


@dataclass(frozen=True)
class PublishedRow:
    """One model as its authors, or the leaderboard, report it.

    Attributes:
        metrics: metric key -> value in the papers' unit, all eleven.
        source: the publication that the metrics were read from.
        parameters: as printed (rounded to 10^4); None where not stated.
        macs: summed over the official 32 utterances, as printed; None where not stated.
        superb_s: the number printed beside the row, for checking; `scores.SUPERB_S(metrics)` computes it.
        score: the leaderboard's display, for checking.
    """

    name: str
    metrics: Mapping[str, float]
    source: str
    parameters: float | None = None
    macs: float | None = None
    superb_s: float | None = None
    score: float | None = None
    notes: str = ""


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All published rows, in the order of the file."""
    tree = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(_row(row, tree["sources"]) for row in tree["rows"])


def published(name: str) -> PublishedRow:
    """The row of one model.

    Raises:
        DataError: nothing was published here under that name.
    """
    for row in published_rows():
        if row.name.lower() == name.lower():
            return row
    raise DataError(f"no published row is called '{name}'; there are {', '.join(row.name for row in published_rows())}")


def _row(row: dict, sources: Mapping[str, str]) -> PublishedRow:
    parameters, macs = row.pop("parameters", None), row.pop("macs", None)
    return PublishedRow(
        **{**row, "source": sources[row["source"]]},
        parameters=None if parameters is None else parameters * 1e6,
        macs=None if macs is None else macs * 1e9,
    )
