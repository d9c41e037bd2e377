"""What the machine does to a command: it has no room, no memory, loses a file, or asks it to end."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import threading
from collections.abc import Iterable, Iterator

from .errors import PrunedUpstreamError

NO_MEMORY = "there is not enough memory; take smaller batches, fewer processes side by side, or a larger machine"
NO_LOADER = (
    "a data loading process was killed, mostly for want of memory; take fewer of them (data.workers, --loader-workers) "
    "or ask for more memory, and give the same command again: it goes on from the last state"
)
LOST_LOADER = (ConnectionResetError, ConnectionRefusedError)  # it was killed while it handed over a batch
# what torch and others say in a RuntimeError where the machine is at fault, and what to do
RUNTIME_FAULTS = {
    "DataLoader worker": NO_LOADER,
    "can't allocate memory": NO_MEMORY,
    "out of memory": NO_MEMORY,
    "can't start new thread": NO_MEMORY,
}
KIND = re.compile(r"[\w.]+(?=: )")
NUMBERED = re.compile(r"\[Errno (?P<number>\d+)\] (?P<words>.*?)(: (?P<place>'.*'|\".*\"))?")
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def fault(error: BaseException) -> str | None:
    """A sentence on what is the user's or the machine's fault, or None if it is the program's.

    An error that a data loading process passed on carries its traceback as text; its last line counts.
    """
    if isinstance(error, PrunedUpstreamError):
        return last_words(error)
    if isinstance(error, LOST_LOADER):
        return NO_LOADER
    if isinstance(error, OSError):
        return _refused(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, RuntimeError):
        if str(error).startswith("Symlink loop"):  # pathlib
            return f"{error}; mend that link, or name another place"
        return next((said for words, said in RUNTIME_FAULTS.items() if words in str(error)), None)
    return None


def last_words(error: BaseException) -> str:
    """What it says; of one that a data loading process passed on, what it said there."""
    text = str(error).strip()
    if "Traceback (most recent call last)" not in text:
        return text
    last = text.splitlines()[-1]
    kind = KIND.match(last)
    return last[kind.end() + 2 :] if kind else last


def lost_file(error: OSError) -> str:
    """The path that is not there, as far as the error knows it."""
    found = NUMBERED.fullmatch(last_words(error))
    return str(error.filename or (found and found["place"] and found["place"][1:-1]) or last_words(error))


def _refused(error: OSError) -> str:
    words, number, place = error.strerror, error.errno, error.filename
    if number is None:
        found = NUMBERED.fullmatch(last_words(error))
        if found is None:
            return f"{last_words(error)}; mend that, and give the same command again"
        words, number, place = found["words"], int(found["number"]), lost_file(error) if found["place"] else None
    if number == errno.ENOMEM:
        return NO_MEMORY
    return f"{f'{place}: ' if place else ''}{words}; mend that, and give the same command again"


def killed(number: int) -> str:
    """How a process ended, and what to do where that tells of the machine's memory."""
    name = signal.Signals(number).name
    if number != signal.SIGKILL:
        return f"killed by {name}"
    return f"killed by {name}, as the system does where memory runs out; {NO_MEMORY}"


@contextlib.contextmanager
def blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Signals that come meanwhile are heard afterwards. Processes that are started here begin with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_as_interruptions() -> Iterator[None]:
    """What would end this process at once, with what it started still running and files half written (SIGTERM, the
    SIGHUP of a lost terminal, SLURM's SIGUSR1), is raised as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}  # nohup
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
