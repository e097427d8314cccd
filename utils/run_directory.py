"""The run directory: its id, its run_info.json, and finding it again."""

import contextlib
import os
import re
import secrets
import string
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import Refused, did_you_mean, without_number
from utils.files import read_json, write_json
from utils.locks import is_live
from utils.processes import first_only

ALPHABET = string.ascii_lowercase + string.digits
RUN_ID = re.compile(r"\d{8}_\d{6}_[a-z0-9]{4}")
STAGE_DIR = re.compile(r"\w[\w.+ -]*")
"""What a stage's directory may be called: nothing that leads out of the run's, or hides in it."""


def create(runs_dir: Path) -> Path:
    """Create a directory for a new run in `runs_dir`, that no other run has or gets.

    Raises:
        Refused: the directory cannot be written.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        while True:
            suffix = "".join(secrets.choice(ALPHABET) for _ in range(4))
            run_dir = runs_dir / f"{datetime.now():%Y%m%d_%H%M%S}_{suffix}"
            with contextlib.suppress(FileExistsError):  # the id is taken: draw another
                run_dir.mkdir()
                return run_dir.resolve()
    except OSError as error:
        raise Refused(f"--runs-dir {runs_dir} cannot be written: {error.strerror}. Name another directory") from error


def usable(runs_dir: Path | str) -> Path:
    """Return the nearest directory that exists at or above `runs_dir`, in which runs can be kept. Creates nothing.

    Raises:
        Refused: they cannot: the name is empty, it or what is above it is a file, or may not be written.
    """
    if not str(runs_dir):
        raise Refused("--runs-dir is empty: name a directory, such as runs")
    if "\0" in str(runs_dir):
        raise Refused(f"--runs-dir {str(runs_dir)!r} can be no path: it holds a null character. Name another directory")
    path = Path(runs_dir).absolute()
    existing = next(one for one in (path, *path.parents) if os.access(one, os.F_OK))
    if not existing.is_dir():
        raise Refused(f"--runs-dir {runs_dir} cannot be used: {existing} is a file. Name another directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise Refused(f"--runs-dir {runs_dir} cannot be used: {existing} cannot be written. Name another directory")
    return existing


class RunInfo:
    """run_info.json of a run: read, and rewritten atomically at each change, of several processes by the first."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.file = run_dir / "run_info.json"

    def read(self) -> dict[str, Any]:
        """Return the whole object.

        Raises:
            Refused: the file cannot be read, or is no run's record.
        """
        record = read_json(self.file)
        if not isinstance(record, dict) or not {"status", "stages"} <= record.keys():
            raise Refused(f"{self.file} is no record of a run: it has no status and stages")
        for entry in record["stages"]:
            if (name := entry.get("output_dir")) is not None and not STAGE_DIR.fullmatch(str(name)):
                raise Refused(f"{self.file}: output_dir = {name!r} is no directory inside the run's")
        return record

    def stage_dir(self, name: str) -> Path:
        """Return the directory of a stage."""
        (found,) = (entry["output_dir"] for entry in self.read()["stages"] if entry["name"] == name)
        return self.run_dir / str(found)

    @first_only
    def set(self, **fields: Any) -> None:
        """Set these fields; the others stay."""
        write_json(self.file, (self.read() if self.file.exists() else {}) | fields)

    @first_only
    def set_stage(self, name: str, **fields: Any) -> None:
        """Set these fields of one stage's entry."""
        stages = [entry | fields if entry["name"] == name else entry for entry in self.read()["stages"]]
        self.set(stages=stages)


def passed_on(entry: Mapping[str, Any], run_dir: Path) -> Path:
    """Return the directory of the model that a stage passes on, by its entry in run_info.json.

    It is the stage's own, but where a gate failed and the recipe says to go on that of its input.
    """
    directory: Path = run_dir / (entry.get("passes_on") or entry["output_dir"])
    return directory


def refuse_unusable(info: RunInfo) -> None:
    """Raise Refused if a run cannot be gone on with: it is live, may not be written, or has a link for a stage."""
    try:
        live = is_live(info.run_dir)
    except OSError as error:
        raise Refused(f"{info.run_dir} cannot be gone on with: {without_number(error)}") from error
    if live:
        raise Refused(f"run {info.run_dir.name} is still running: wait for it, or stop it first")
    if not os.access(info.run_dir, os.W_OK | os.X_OK):
        raise Refused(f"{info.run_dir} cannot be gone on with: it may not be written")
    for entry in info.read()["stages"]:
        refuse_link(info.run_dir / entry["output_dir"])


def refuse_link(stage_dir: Path) -> None:
    """Raise Refused if a stage's directory is a link, by which its files would be written somewhere else."""
    if stage_dir.is_symlink():
        raise Refused(
            f"{stage_dir} is a link to {stage_dir.readlink()}: a stage writes inside its run alone. Remove it"
        )


def status_now(directory: Path, recorded: str) -> str:
    """Return the status of a run, or of a stage in it, by its record and the lock that `directory` holds.

    What was killed could not record its end: if no process holds the lock, "running" was interrupted.
    """
    try:
        return "interrupted" if recorded == "running" and not is_live(directory) else recorded
    except OSError:  # the run of another user, whose lock may not be opened
        return recorded


def find(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id; `latest` is the newest, of those named as `create` names them.

    Raises:
        Refused: there is no such run.
    """
    own = _own(runs_dir) if run_id == "latest" else []
    if own:
        return own[-1]
    names = sorted(path.parent.name for path in runs_dir.glob("*/run_info.json"))
    if run_id not in names:
        near = did_you_mean(run_id, names)
        newest = f" Newest there: {', '.join(reversed(names[-3:]))}." if names else ""
        where = f"{runs_dir.resolve()}{near or '.'}{newest}"
        raise Refused(f"no run {run_id!r} in {where} --runs-dir names the directory of runs.")
    return RunInfo((runs_dir / run_id).resolve())


def find_unfinished(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id, to go on with; `latest` is the newest that has not passed.

    Raises:
        Refused: there is no such run.
    """
    if run_id != "latest":
        return find(runs_dir, run_id)
    unfinished = [info for info in _own(runs_dir) if info.read()["status"] != "passed"]
    if not unfinished:
        raise Refused(f"no unfinished run in {runs_dir.resolve()}: there is nothing to resume")
    return unfinished[-1]


def find_source(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id, to take inputs from; `latest` is the newest of which a stage has passed.

    Raises:
        Refused: there is no such run.
    """
    if run_id != "latest":
        return find(runs_dir, run_id)
    for info in reversed(_own(runs_dir)):
        if any(stage["status"] == "passed" for stage in info.read().get("stages", [])):
            return info
    raise Refused(f"no run in {runs_dir.resolve()} has a stage that has passed, from which another could start")


def _own(runs_dir: Path) -> list[RunInfo]:
    """Return the runs that are named as `create` names them, the newest last."""
    runs = sorted(path.parent for path in runs_dir.glob("*/run_info.json"))
    return [RunInfo(run.resolve()) for run in runs if RUN_ID.fullmatch(run.name)]
