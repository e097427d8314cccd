"""The run directory: its id, its run_info.json, and finding it again."""

import contextlib
import os
import re
import secrets
import string
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from records.schema import RUN, Unsound, read_record, unsound
from records.stage_log import StageLog
from utils.console import warn
from utils.errors import Refused, did_you_mean, without_number
from utils.files import write_json
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
        """Return the whole object, whose fields have the types that everyone who reads it relies on.

        Raises:
            Unsound: the file cannot be read, or is no run's record.
        """
        record = read_record(self.file, RUN)
        names = [entry["name"] for entry in record["stages"]]
        for place, entry in enumerate(record["stages"]):
            if not STAGE_DIR.fullmatch(entry["output_dir"]):
                outside = (
                    f"stages[{place}].output_dir is {entry['output_dir']!r}, and must be a directory inside the run's"
                )
                raise unsound(f"{self.file} is no sound record: {outside}")
            if entry["name"] in names[:place]:
                raise unsound(f"{self.file} is no sound record: two stages have the name {entry['name']!r}")
        return record

    def read_stages(self) -> dict[str, dict[str, Any]]:
        """Return the record of each stage by its label, {} of one that has not begun.

        Raises:
            Unsound: one of them, or the run's own.
        """
        dirs = {entry["name"]: self.run_dir / entry["output_dir"] for entry in self.read()["stages"]}
        return {name: StageLog(stage_dir).read_info() for name, stage_dir in dirs.items()}

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
    """Raise Refused if a run cannot be resumed: it is live, may not be written, or has a link for a stage."""
    try:
        live = is_live(info.run_dir)
    except OSError as error:
        raise Refused(f"{info.run_dir} cannot be resumed: {without_number(error)}") from error
    if live:
        raise Refused(f"run {info.run_dir.name} is still running: wait for it, or stop it first")
    if not os.access(info.run_dir, os.W_OK | os.X_OK):
        raise Refused(f"{info.run_dir} cannot be resumed: it may not be written")
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
    """Return the run of that id; `latest` is the newest with a sound record, of those named as `create` names them.

    Raises:
        Refused: there is no such run.
    """
    newest = _newest(runs_dir, lambda record: True) if run_id == "latest" else None
    if newest:
        return newest
    names = sorted(path.parent.name for path in runs_dir.glob("*/run_info.json"))
    if run_id not in names:
        near = did_you_mean(run_id, names)
        recent = f" Newest there: {', '.join(reversed(names[-3:]))}." if names else ""
        where = f"{runs_dir.resolve()}{near or '.'}{recent}"
        raise Refused(f"no run {run_id!r} in {where} --runs-dir names the directory of runs.")
    return RunInfo((runs_dir / run_id).resolve())


def find_unfinished(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id, to resume; `latest` is the newest that has not passed.

    Raises:
        Refused: there is no such run.
    """
    if run_id != "latest":
        return find(runs_dir, run_id)
    if newest := _newest(runs_dir, lambda record: record["status"] != "passed"):
        return newest
    raise Refused(f"no unfinished run in {runs_dir.resolve()}: there is nothing to resume")


def find_source(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id, to take inputs from; `latest` is the newest of which a stage has passed.

    Raises:
        Refused: there is no such run.
    """
    if run_id != "latest":
        return find(runs_dir, run_id)
    if newest := _newest(runs_dir, lambda record: any(entry["status"] == "passed" for entry in record["stages"])):
        return newest
    raise Refused(f"no run in {runs_dir.resolve()} has a stage that has passed, from which another could start")


def _newest(runs_dir: Path, is_wanted: Callable[[dict[str, Any]], bool]) -> RunInfo | None:
    """Return the newest run named as `create` names them whose record is wanted.

    One without sound records, of its stages too, is passed over with a warning: it must not hide the others.
    """
    for file in sorted(runs_dir.glob("*/run_info.json"), reverse=True):
        info = RunInfo(file.parent.resolve())
        try:
            if RUN_ID.fullmatch(file.parent.name) and is_wanted(info.read()):
                info.read_stages()
                return info
        except Unsound as refused:
            warn(f"passed over: {refused}")
    return None
