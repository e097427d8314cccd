"""The checkpoints there are: of runs, of other directories, of the Hub; found by name, and listed."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinds
from records.run_directory import RUN_ID, RunInfo, passed_on, status_now
from records.schema import Unsound
from records.stage_log import StageLog, read_object
from utils import hub
from utils.command_line import command, relative, resume_command
from utils.console import console, warn
from utils.errors import Refused, did_you_mean
from utils.files import ADAPTER_CONFIG, base_of, own_weight_files, user_path, weight_files

LISTED_RUNS = 10
YET_TO_COME = ("running", "pending")
"""Statuses of a stage whose model is still to be expected."""


@dataclass(frozen=True)
class Checkpoint:
    """A language model on this disk, or what lies where one should."""

    name: str
    """Under which it is shown."""
    path: Path
    """The directory of its weights."""

    @property
    def stage_dir(self) -> Path:
        """The directory of the stage that wrote it."""
        return self.path.parent if self.path.name.startswith("checkpoint-") else self.path

    @property
    def stage(self) -> dict[str, Any]:
        """The record of the stage that wrote it; empty for a model from elsewhere."""
        return StageLog(self.stage_dir).read_info()

    @property
    def run_dir(self) -> Path | None:
        """The run that it belongs to; None for a model from elsewhere."""
        return next((parent for parent in self.path.resolve().parents if _is_run(parent)), None)

    @property
    def status(self) -> str:
        """That of its stage; a model from elsewhere has passed."""
        return status_now(self.run_dir or self.stage_dir, self.stage.get("status", "passed"))

    @property
    def scores(self) -> bool:
        """Whether it is a reward model, which writes nothing, by its files: its kind need not be known here."""
        names = read_object(self.path / "config.json", {"architectures?": ([str], None)}).get("architectures") or []
        scores = read_object(self.path / ADAPTER_CONFIG, {}).get("task_type") == "SEQ_CLS"
        return scores or any(name.endswith("ForSequenceClassification") for name in names)

    @property
    def chats(self) -> bool:
        """Whether it is to be asked through its chat template, rather than to continue text.

        A base has the template for the stages to come: pretraining showed it documents, and no one asking.
        """
        own = read_object(self.path / "tokenizer_config.json", {}).get("chat_template")
        return bool(own or list(self.path.glob("chat_template.jin*"))) and kinds.recorded(self.stage).chats


def find_checkpoint(given: str, runs_dir: Path, *, talks: bool = True) -> Checkpoint:
    """Return the checkpoint of that name: RUN_ID, RUN_ID/STAGE, `latest`, `latest/STAGE`, a directory or a Hub id.

    A stage is named by its label or its output_dir. A run alone, or its directory, means what its last stage passes on
    that has passed and is no reward model; `latest` is the newest run that has what is asked for.

    `talks` refuses a reward model.

    Raises:
        Refused: there is none, or it cannot be talked to.
    """
    found = _find(given, runs_dir)
    if talks and found.scores:
        run_dir = found.run_dir
        instead = (
            f"a stage that does: python chat.py {run_dir}" if run_dir else "the model that it was trained to judge"
        )
        raise Refused(f"{found.name} is a reward model: it scores answers and writes none. Talk to {instead}")
    return found


def _find(given: str, runs_dir: Path) -> Checkpoint:
    first, _, stage = given.partition("/")
    if first == "latest":
        return _of_latest(runs_dir, stage)
    for path in (user_path(given), user_path(str(runs_dir / given))):
        if _is_run(path):
            return _of_run(path)
        if path.is_dir():
            if not weight_files(path) and not list(path.glob("*.json")):
                raise Refused(f"{path} is a directory without a model.\n{catalogue(runs_dir)}")
            return _of_directory(path)
        within = next((parent for parent in path.parents if parent != Path() and _is_run(parent)), None)
        if within:
            return _of_run(within, str(path.relative_to(within)))
    return Checkpoint(given, _from_hub(given, runs_dir))


def _is_run(directory: Path) -> bool:
    return (directory / "run_info.json").is_file()


def _runs(runs_dir: Path) -> list[Path]:
    return sorted(path.parent for path in runs_dir.glob("*/run_info.json"))


def _of_latest(runs_dir: Path, stage: str) -> Checkpoint:
    refusals = [Refused(f"there is no latest run.\n{catalogue(runs_dir)}")]
    for run_dir in reversed([run for run in _runs(runs_dir) if RUN_ID.fullmatch(run.name)]):
        try:
            return _of_run(run_dir, stage)
        except Unsound as error:
            warn(f"passed over: {error}")
            refusals.append(error)
        except Refused as error:
            refusals.append(error)
    raise refusals[min(1, len(refusals) - 1)]  # of the newest run


def _of_run(run_dir: Path, stage: str = "") -> Checkpoint:
    """Return a stage's model, or a checkpoint inside it (`sft/checkpoint-60`); the last passed one if none is named."""
    run_dir = run_dir.resolve()
    entries = RunInfo(run_dir).read()["stages"]
    named = {entry[key]: run_dir / entry["output_dir"] for key in ("output_dir", "name") for entry in entries}
    has = ", ".join(f"{entry['name']} ({status_now(run_dir, entry['status'])})" for entry in entries)
    first, _, inside = stage.partition("/")
    if first in named and not named[first].is_dir():
        raise Refused(f"run {run_dir.name} has not begun its stage {first!r}. It has: {has}")
    if first in named:
        return _of_directory(named[first] / inside)
    if stage:
        raise Refused(f"run {run_dir.name} has no stage {first!r}{did_you_mean(first, named) or '.'} It has: {has}")
    for entry in reversed(entries):
        path = passed_on(entry, run_dir)
        is_policy = entry["status"] == "passed" and not kinds.recorded(entry).scores and weight_files(path)
        if is_policy and not (checkpoint := _of_directory(path)).scores:  # of a kind that is not known here too
            return checkpoint
    raise Refused(f"run {run_dir.name} has no stage to talk to, that has passed and is no reward model. It has: {has}")


def _of_directory(path: Path) -> Checkpoint:
    run_dir = Checkpoint(str(path), path).run_dir
    found = Checkpoint(str(path.resolve().relative_to(run_dir.parent)) if run_dir else str(path), path)
    if not path.is_dir():
        raise Refused(f"there is no {path}. Inside {path.parent.name} are: {', '.join(_steps(path.parent)) or 'none'}")
    StageLog(found.stage_dir).read_info()  # of which more is asked later
    there = {"config.json": (path / "config.json").exists() or base_of(path), "weights": weight_files(path)}
    if lacks := [name for name, is_there in there.items() if not is_there]:
        inside = f". Inside are: {', '.join(_steps(path))}" if _steps(path) else ""
        go_on = _how_to_go_on(found) or hub.if_pickled(path)
        raise Refused(f"{path} has no {' and no '.join(lacks)}{_state(found)}{inside}{go_on}")
    return found


def _state(found: Checkpoint) -> str:
    """Return why a stage has no model, as the end of a sentence; "" of one that has passed."""
    if found.status == "passed":
        return ""
    return f"{' yet' if found.status in YET_TO_COME else ''}: its stage is {found.status}"


def _how_to_go_on(found: Checkpoint) -> str:
    """Return the command that goes on with a stage that has stopped; "" of one that has not, or is a copy."""
    if found.status in ("passed", *YET_TO_COME):
        return ""
    if found.run_dir is not None:
        return f"\nContinue with:\n  {resume_command(found.run_dir)}"
    if kinds.recorded(found.stage).starts_from_nothing:
        return f"\nContinue with:\n  {command('-m', 'pretrain', '--resume', relative(found.stage_dir))}"
    return ""


def _from_hub(name: str, runs_dir: Path) -> Path:
    """Return the directory of a model on the Hub: in the cache, or downloaded."""
    problem = f"{name!r} is no run in {runs_dir} and no directory"
    if name.count("/") < 2 and name[:1] not in {".", "~", "/"} and not RUN_ID.match(name):
        if cached := hub.local_model(name, None):
            return cached
        problem += ", and no model of the Hub that is on this machine"
        if "/" in name and (why := hub.unreachable()):
            problem += f" ({why})"
        elif "/" in name:
            console().print(f"downloading {name}", markup=False)
            return hub.download_model(name, None)
    near = ["latest"]
    for run_dir in _runs(runs_dir):
        near.append(run_dir.name)
        with contextlib.suppress(Refused):  # a record that cannot be read must not hide the others
            near += [f"{run_dir.name}/{entry['name']}" for entry in RunInfo(run_dir).read()["stages"]]
    raise Refused(f"{problem}{did_you_mean(name, near) or '.'}\n{catalogue(runs_dir)}")


def _steps(stage_dir: Path) -> list[str]:
    names = [path.name for path in stage_dir.glob("checkpoint-*") if own_weight_files(path)]
    return sorted(names, key=lambda name: (len(name), name))


def catalogue(runs_dir: Path) -> str:
    """Return what there is to talk to in `runs_dir`, as text: runs and their stages, newest first, and other models."""
    runs = _runs(runs_dir)
    lines = [f"In {runs_dir}, newest first:" if runs else f"There are no runs in {runs_dir}."]
    for run_dir in reversed(runs[-LISTED_RUNS:]):
        lines += _lines(run_dir)
    if len(runs) > LISTED_RUNS:
        lines.append(f"  and {len(runs) - LISTED_RUNS} older ones")
    others = [file.parent for file in runs_dir.glob("*/config.json") if weight_files(file.parent)]
    lines += [f"  {path}" for path in sorted(others)]
    return "\n".join([*lines, "Talk to one by RUN_ID, RUN_ID/STAGE, `latest`, a model's directory or a Hub id."])


def _lines(run_dir: Path) -> list[str]:
    """Return a run's lines of the catalogue. A file that cannot be read costs the line of what it tells of alone."""
    try:
        entries = RunInfo(run_dir).read()["stages"]
    except Refused:
        return [f"  {run_dir.name}  cannot be read"]
    lines = [f"  {run_dir.name}"]
    for entry in entries:
        try:
            lines.append(f"    {_line(run_dir, entry)}")
        except (Refused, OSError):
            lines.append(f"    {entry['name']:<8}  {entry['output_dir']:<16}  cannot be read")
    return lines


def _line(run_dir: Path, entry: dict[str, Any]) -> str:
    stage = Checkpoint(entry["name"], run_dir / entry["output_dir"])
    now = status_now(run_dir, entry["status"])
    can = "chat" if stage.chats else "continues text"
    if kinds.recorded(entry).scores or stage.scores:
        can = "scores answers, cannot be talked to"
    elif not weight_files(stage.path):
        can = "has no model yet" if now in YET_TO_COME else "has no model"
    status = [] if now == "passed" else [now]
    if entry.get("passes_on"):
        status.append(f"a gate failed: passes on {entry['passes_on']}")
    return f"{entry['name']:<8}  {entry['output_dir']:<16}  {', '.join([*status, can, *_steps(stage.path)])}"
