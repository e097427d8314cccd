"""Checkpoints that are whole or not there: written under another name, sealed with the hashes of their files, renamed.

A kill leaves a directory whose name no reader looks for; damage that comes later shows against the hashes.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import Refused, StageFailed, without_number
from utils.files import read_json, write_json

MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""Inside a stage's directory: what is being written. Nobody reads it, and the next writer empties it."""


def partial(stage_dir: Path) -> Path:
    """Return an empty directory to write into, of which `seal` and `publish` take what is done."""
    directory = stage_dir / PARTIAL
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def seal(written: Path, final: Path) -> None:
    """Give a directory that is written its final name, in one step, with a manifest of its files; all is on disk then.

    A checkpoint of that name, of an attempt before, is replaced.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    write_json(written / MANIFEST, {"files": {str(path.relative_to(written)): _entry(path) for path in files}})
    _sync(written)
    shutil.rmtree(final, ignore_errors=True)
    written.rename(final)
    _sync(final.parent)


@contextmanager
def writing(what: str, stage_dir: Path) -> Iterator[None]:
    """Say plainly that something cannot be written, as on a full disk, and leave nothing half-written.

    Raises:
        StageFailed: in place of the system's error, or of torch's or safetensors' own for it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _TORCH_CANNOT_WRITE):
            raise
        shutil.rmtree(stage_dir / PARTIAL, ignore_errors=True)
        reason, free = without_number(error), shutil.disk_usage(stage_dir).free / 2**30
        forbidden = any(sign in reason for sign in ("Read-only", "ermission"))
        mend = "let it be written" if forbidden else f"it has {free:.1f} GiB free: make room"
        raise StageFailed(
            f"{what} cannot be written: {reason}. What was saved in {stage_dir} before is whole; {mend}, and resume."
        ) from error


_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container")


def publish(written: Path, directory: Path) -> None:
    """Move the files of a finished model into `directory`, each in one step, its weights last, by which it is known."""
    files = [path for path in written.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path.name)):
        _flush(path)
        final = directory / path.relative_to(written)
        final.parent.mkdir(exist_ok=True)  # named chat templates have a folder
        path.replace(final)
    shutil.rmtree(written)
    _sync(directory)


def sealed(stage_dir: Path) -> list[Path]:
    """Return the checkpoints of a stage that were written to their end, those with the fewest steps first."""
    found = [path for path in stage_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    whole = [path for path in found if (path / MANIFEST).is_file()]
    return sorted(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def newest_sound(stage_dir: Path, tell: Callable[[str], None]) -> Path | None:
    """Return the sealed checkpoint with the most steps whose files are what they were; None if there is none.

    Those that are damaged are renamed, and `tell` says so: they are kept, and no longer taken for checkpoints.
    """
    shutil.rmtree(stage_dir / PARTIAL, ignore_errors=True)
    for checkpoint in reversed(sealed(stage_dir)):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        tell(f"{checkpoint.name} is damaged, and kept as {aside.name}: {wrong}")
    return None


def damage(checkpoint: Path) -> str | None:
    """Return how a sealed checkpoint differs from what was written; None if it does not."""
    try:
        files = dict(read_json(checkpoint / MANIFEST)["files"])
        for name, was in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"it has no {name}"
            if path.stat().st_size != was["size_bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes of {was['size_bytes']:,}"
            if _sha256(path) != was["sha256"]:
                return f"the content of {name} has changed"
    except (Refused, OSError, LookupError, TypeError) as error:
        return str(error)
    return None


def _entry(path: Path) -> dict[str, int | str]:
    _flush(path)
    return {"size_bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Bring a file's content to the disk: a rename alone may reach it first, and a power cut leaves an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Bring a directory's names to the disk, where the system can."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
