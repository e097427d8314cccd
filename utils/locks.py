"""One process to a directory: a lock that ends with its process, however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from utils.errors import Refused
from utils.processes import is_first

LOCK = ".lock"


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock; of several processes the first one does. The system releases it when that ends, however.

    Raises:
        Refused: another run holds it.
    """
    if not is_first():
        yield
        return
    with (run_dir / LOCK).open("a") as file:  # a look at it changes nothing
        if not _taken(file):
            raise Refused(f"run {run_dir.name} is still running: wait for it, or stop it first")
        yield


def is_live(run_dir: Path) -> bool:
    """Tell whether a process is running this run now."""
    if not (run_dir / LOCK).exists():
        return False
    with (run_dir / LOCK).open("a") as file:
        return not _taken(file)


def _taken(file: TextIO) -> bool:
    """Tell whether the lock could be taken; closing the file gives it back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
