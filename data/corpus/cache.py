"""Directories that are made once and kept: whole or absent, whatever kills their maker, however many start at once."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from utils.console import console, progress
from utils.errors import Refused
from utils.files import jsonable, write_json

META = "meta.json"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def root() -> Path:
    """Return the directory in which prepared data are kept: $SIXGIG_CACHE, or ~/.cache/sixgig."""
    return Path(os.environ.get("SIXGIG_CACHE") or "~/.cache/sixgig").expanduser().absolute()


def key_of(*parts: Any) -> str:
    """Return a name for what is made from `parts`, values of JSON's types: the same parts, the same name."""
    return sha256(json.dumps(jsonable(parts), sort_keys=True).encode()).hexdigest()[:32]


def made_once(final: Path, what: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the meta.json of the directory `final`, after `make` has filled it, if it was not there and whole.

    `make` is given an empty directory, which gets its final name when it is complete; what `make` returns becomes
    meta.json, with the size of each file. Of several processes one makes it, and the others wait. One that was killed
    leaves a partial directory, which the next start removes. `what` is for messages.

    Raises:
        Refused: the disk is full, or the cache cannot be written; nothing is left behind.
    """
    if (meta := _whole(final)) is not None:
        return meta
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final, what):
            meta = _whole(final)  # another process may have made it meanwhile
            return _make(final, make) if meta is None else meta
    except OSError as error:
        where = f"SIXGIG_CACHE names another directory than {root()}, where prepared data are kept."
        if error.errno in NO_ROOM:
            free = shutil.disk_usage(final.parent).free / 2**30
            raise Refused(
                f"no room for {what}: {final.parent} has {free:.1f} GiB free. Make room there, or {where}"
            ) from None
        reason = f"{error.strerror or error} ({error.filename or final})"
        raise Refused(f"{what} cannot be written: {reason}. {where}") from None


def _make(final: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # whoever left it is dead: the lock is ours
    shutil.rmtree(final, ignore_errors=True)  # damaged
    partial.mkdir()
    try:
        meta = make(partial)
        meta |= {"files": {file.name: file.stat().st_size for file in sorted(partial.iterdir())}}
        write_json(partial / META, meta)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def _whole(directory: Path) -> dict[str, Any] | None:
    """Return the meta.json of a directory whose files all have the sizes that it tells; None for any other."""
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        sizes = {name: (directory / name).stat().st_size for name in meta["files"]}
        return meta if sizes == meta["files"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _locked(final: Path, what: str) -> Iterator[None]:
    lock = FileLock(final.with_name(f".{final.name}.lock"))  # held by an open file: it ends with its process
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console().print(f"another process prepares {what}: waiting for it", markup=False)
        lock.acquire()
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for the file that is gone tries again
        lock.release()


@contextmanager
def metered(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar over `total_bytes` in MB, 0 if unknown; gives the function that is told of each more bytes read."""
    done = 0
    with progress(f"{what} (MB)", -(-total_bytes >> 20)) as bar:

        def read(more_bytes: int) -> None:
            nonlocal done
            done += more_bytes
            if done >> 20 > (done - more_bytes) >> 20:
                bar.update(done >> 20)

        yield read
        bar.update(bar.total or -(-done >> 20))  # a part of what is read, such as JSON's own, may not count
