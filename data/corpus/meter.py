"""The progress of reading bytes, in MB."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from utils.console import progress

UPDATE_BYTES = 1 << 20


@contextmanager
def metered(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar over `total_bytes`, 0 if unknown; gives the function that is told how many more bytes were read."""
    done = shown = 0
    with progress(f"{what} (MB)", _megabytes(total_bytes)) as bar:

        def read(more_bytes: int) -> None:
            nonlocal done, shown
            done += more_bytes
            if done - shown >= UPDATE_BYTES:
                shown = done
                bar.update(_megabytes(done))

        yield read
        bar.update(bar.total or _megabytes(done))  # a part of what is read, such as JSON's own, may not count


def _megabytes(size_bytes: int) -> int:
    return -(-size_bytes >> 20)
