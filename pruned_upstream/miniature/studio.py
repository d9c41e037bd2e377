"""Recording: clips go out in fixed shards, each to a fresh process, so that the same plan gives the same bytes.

The engine's state depends on all it has said before; with one process per shard that history is the shard's own, and
neither the number of workers nor their speed shows in the files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import PrunedUpstreamError
from .clip import Clip, Take

SHARD = 128


def record(
    clips: Sequence[Clip], folder: Path, *, workers: int = 2, progress: Callable[[int], None] | None = None
) -> list[Take]:
    """Record all clips under `folder`, in the order given; `progress` is called with the number of clips just finished.

    Raises:
        PrunedUpstreamError: espeak-ng is missing, or a shard's process failed; its last words are in the message.
    """
    shards = [clips[i : i + SHARD] for i in range(0, len(clips), SHARD)]
    takes: list[Take] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for shard_takes in pool.map(lambda shard: _in_fresh_process(shard, folder), shards):
            takes += shard_takes
            if progress is not None:
                progress(len(shard_takes))
    return takes


def _in_fresh_process(shard: Sequence[Clip], folder: Path) -> list[Take]:
    order = json.dumps([clip.to_dict() for clip in shard])
    # The package may be imported from a source tree that only this process has on its path.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    worker = subprocess.run(
        [sys.executable, "-m", f"{__package__}.booth", str(folder)],
        input=order,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if worker.returncode != 0:
        last_words = (worker.stderr.strip().splitlines() or ["no message"])[-1]
        raise PrunedUpstreamError(f"recording under {folder} failed (exit code {worker.returncode}): {last_words}")
    return [Take.from_dict(take) for take in json.loads(worker.stdout)]
