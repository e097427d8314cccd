"""What the files of a run say of its stages: written when it opens, read when it is resumed or built upon."""

import sys
from pathlib import Path
from typing import Any

from chain.run_directory import RunInfo, is_live
from chain.stages import Stage, reference, reward_name
from utils.errors import Refused
from utils.files import jsonable, weight_files, weights_sha256
from utils.runtime import git_commit, hardware, now, versions
from utils.stage_log import StageLog


def finished_outputs(info: RunInfo) -> dict[str, Path]:
    """Return the directory of each stage of a run that has passed, by the stage's name.

    Raises:
        Refused: a directory no longer holds the weights that its stage wrote.
    """
    found = {}
    for entry in info.read()["stages"]:
        if entry["status"] == "passed":
            found[entry["name"]] = info.run_dir / entry["output_dir"]
            if problem := altered(found[entry["name"]]):
                raise Refused(f"run {info.run_dir.name}, stage {entry['name']}: {problem}. Run it again.")
    return found


def altered(stage_dir: Path) -> str | None:
    """Say how a finished stage's weights differ from those it wrote; None if they are the same."""
    written = StageLog(stage_dir).read_info().get("output") or {}
    if not weight_files(stage_dir):
        return f"{stage_dir} holds no weights"
    return (
        None if weights_sha256(stage_dir) == written.get("sha256") else f"{stage_dir} holds other weights than it wrote"
    )


def changes_since(info: RunInfo, stages: list[Stage], force: bool) -> list[str]:
    """Return how the stages differ from those that the run recorded, when `force` accepts that.

    Raises:
        Refused: they differ and `force` is not given, or there is nothing to resume.
    """
    record = info.read()
    if is_live(info.run_dir):
        raise Refused(f"run {info.run_dir.name} is still running: wait for it, or stop it first")
    if record["status"] == "passed":
        raise Refused(f"run {info.run_dir.name} has passed: there is nothing to resume")
    before = {entry["name"]: entry for entry in record["stages"]}
    changes = []
    if list(before) != [stage.kind for stage in stages]:
        changes.append(f"its stages were {', '.join(before)}; now {', '.join(stage.kind for stage in stages)}")
    for stage in stages:
        stage_dir = info.run_dir / before.get(stage.kind, {}).get("output_dir", stage.config.output_dir)
        now_is, was = recorded(stage), StageLog(stage_dir).read_info().get("config") or {}
        changes += [
            f"{stage.kind}: {name} was {was[name]!r}, now {value!r}"
            for name, value in now_is.items()
            if name in was and was[name] != value
        ]
        if before.get(stage.kind, {}).get("status") == "passed" and (problem := altered(stage_dir)):
            changes.append(f"{stage.kind}: {problem}")
    if changes and not force:
        listed = "\n".join(f"- {change}" for change in changes)
        raise Refused(
            f"run {info.run_dir.name} cannot go on as it began:\n{listed}\nUndo this, or accept it with --force"
        )
    return changes


def recorded(stage: Stage) -> dict[str, Any]:
    """Return a stage's configuration as the run records it, in JSON's types."""
    config = dict(jsonable(stage.config))
    if stage.model is not None:
        config["model_name"] = reference(stage.model)
    if stage.extra is not None:
        config["grpo_extra"] = jsonable(stage.extra) | {
            "reward_func": [reward_name(one) for one in stage.extra.rewards]
        }
    return config


def trainer_options(stage: Stage) -> dict[str, Any]:
    """Return every option of the stage's TRL trainer as it is used, with the defaults that the recipe leaves."""
    from algorithms import arguments

    options = arguments.resolve(stage.config, stage.extra, Path(stage.config.output_dir))
    return dict(jsonable(arguments.config_class(stage.kind)(**options).to_dict()))


def open_record(info: RunInfo, stages: list[Stage], recipe: str | None, changes: list[str]) -> None:
    """Write run_info.json of a new run, or mark a resumed one as running again."""
    if info.file.exists():
        record = info.read()
        if changes:
            record["forced"] = [*record.get("forced", []), *changes]
        info.set(**record | {"status": "running", "finished_at": None})
        return
    seeds = {stage.config.seed for stage in stages}
    pending = {"status": "pending", "started_at": None, "duration_s": None, "input": None}
    info.set(
        run_id=info.run_dir.name,
        recipe=recipe,
        argv=sys.argv,
        seed=seeds.pop() if len(seeds) == 1 else None,
        status="running",
        started_at=now(),
        finished_at=None,
        stages=[{"name": stage.kind, "output_dir": stage.config.output_dir} | pending for stage in stages],
        versions=versions(),
        git_commit=git_commit(),
        hardware=hardware(),
    )
