"""Reading under watch: in a forked process with limits of time and memory, whose end is told apart from an answer."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pruned_upstream.errors import PrunedUpstreamError

PREPARATION_SECONDS = 300.0  # for the valid files
SECONDS = 20.0  # for one file; a sound one takes less than one
BYTES = 3 << 30  # beyond what the process has at its start
SHOWN = 1500  # characters of a traceback


@dataclass
class Tally:
    """What became of the files: read, refused in a sentence, or escaped."""

    counts: Counter[str] = field(default_factory=Counter)
    escapes: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def __iadd__(self, other: Tally) -> Tally:
        self.counts += other.counts
        self.escapes += other.escapes
        self.slowest = max(self.slowest, other.slowest)
        return self


Attack = Callable[[int], tuple[str, Callable[[], object]]]


def watch(files: int, attacks: Callable[[], Attack]) -> dict[str, Tally]:
    """Attack `files` times, and tell by format what came of it. A process that dies or hangs is an escape.

    Args:
        attacks: is called in the watched process, since what computes does not survive a fork; it gives what prepares
            file number n, and says its format and who reads it.
    """
    tallies: dict[str, Tally] = {}
    done = 0
    while done < files:
        done = _in_child(done, files, attacks, tallies)
    return tallies


def _in_child(first: int, files: int, attacks: Callable[[], Attack], tallies: dict[str, Tally]) -> int:
    reading, writing = os.pipe()
    loud = os.dup(2)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "wb") as pipe:
                _work(first, files, attacks, pipe)
        except BaseException:  # a fault of the attack, not of what it attacks
            os.write(loud, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.close(loud)
    done = first
    told, done, name = b"", first, "preparation"
    died = ""
    while not died:
        ready, _, _ = select.select([reading], [], [], SECONDS if name != "preparation" else PREPARATION_SECONDS)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            died = "no end"
            break
        part = os.read(reading, 1 << 16)
        if not part:
            break
        *lines, told = (told + part).split(b"\n")
        for line in lines:
            name, kind, words, seconds = json.loads(line)
            tally = tallies.setdefault(name, Tally())
            if kind == "begins":
                continue
            tally.counts[kind] += 1
            if kind == "escaped":
                tally.escapes.append(f"file {done}: {words}")
            tally.slowest = max(tally.slowest, seconds)
            done += 1
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if done < files:
        if name == "preparation":
            raise RuntimeError(f"the valid files could not be made; the process ended with status {status}")
        signals = f"the process died of signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "it ended"
        tallies[name].escapes.append(f"file {done}: {died or signals}")
        tallies[name].counts["escaped"] += 1
        done += 1
    return done


def _work(first: int, files: int, attacks: Callable[[], Attack], pipe: BinaryIO) -> None:
    attack = attacks()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))

    def tell(*words: object) -> None:
        pipe.write(json.dumps(words).encode() + b"\n")
        pipe.flush()

    for number in range(first, files):
        name, read = attack(number)
        tell(name, "begins", "", 0.0)
        started = time.monotonic()
        kind, words = "read", ""
        try:
            read()
        except PrunedUpstreamError as error:
            sentence = str(error)
            kind = "refused" if sentence.strip() and len(sentence) < 20_000 else "escaped"
            words = sentence[:SHOWN] if kind == "escaped" else ""
        except BaseException:
            kind, words = "escaped", traceback.format_exc()[-SHOWN:]
        tell(name, kind, words, time.monotonic() - started)
