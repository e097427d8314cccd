"""One process to a directory: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import Refused

LOCK = ".lock"


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock. The system releases it when the process ends, however it ends.

    Raises:
        Refused: another process holds it.
    """
    with (run_dir / LOCK).open("a") as file:  # a look at it changes nothing
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"run {run_dir.name} is still running: wait for it, or stop it first") from error
        yield


def is_live(run_dir: Path) -> bool:
    """Tell whether a process is running this run now."""
    try:
        with lock(run_dir) if (run_dir / LOCK).exists() else contextlib.nullcontext():
            return False
    except Refused:
        return True
