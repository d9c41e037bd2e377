"""One shard of a recording, in a process of its own.

`python -m pruned_upstream.miniature.booth FOLDER` takes a JSON list of clips on standard input, writes their files
under FOLDER, and says on standard output, as a JSON list of takes, what lies where.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import PrunedUpstreamError
from .clip import Clip, render, write
from .voice import Espeak


def main(folder: Path) -> None:
    """Speak the clips that standard input lists into `folder`; print what was spoken when, as JSON."""
    espeak = Espeak()
    takes = []
    for fields in json.load(sys.stdin):
        clip = Clip.from_dict(fields)
        samples, take = render(clip, espeak)
        write(samples, clip.sample_rate, folder / clip.path)
        takes.append(take.to_dict())
    json.dump(takes, sys.stdout)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except PrunedUpstreamError as error:
        sys.exit(str(error))
