"""What a run's files say of it, read as far as they are there: of what is missing, nothing is made up."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any

import kinds
from evaluation.samples import SAMPLES_FILE
from records.run_directory import RunInfo, status_now
from records.stage_log import StageLog

Facts = dict[str, Any]
OBJECTS = ("config", "input", "output", "data", "reward_models", "phases_s")
LISTS = ("evaluation", "alarms", "gates", "energy_from")
NUMBERS = ("duration_s", "steps", "tokens", "peak_memory_bytes", "disk_bytes", "energy_j")


@dataclass(frozen=True)
class StageFacts:
    """One stage: its entry in run_info.json and the files of its directory; empty where there is none."""

    name: str
    """Its label."""
    kind: kinds.Kind
    status: str
    info: Facts = field(default_factory=lambda: sound({}))
    """stage_info.json, each of `OBJECTS`, `LISTS` and `NUMBERS` there."""
    metrics: list[Facts] = field(default_factory=list)
    samples: list[Facts] = field(default_factory=list)

    @property
    def results(self) -> list[Facts]:
        """What was measured of it."""
        return list(self.info["evaluation"])

    @property
    def input_ref(self) -> str | None:
        """What it started from, as the recipe names it; None for random weights."""
        model = self.info["input"].get("ref") or self.info["config"].get("model_name")
        return None if model is None else str(model)


@dataclass(frozen=True)
class RunFacts:
    """A run: its record, its stages in their order, and what was not read."""

    run_id: str
    record: Facts
    status: str
    stages: list[StageFacts]
    problems: list[str]

    @property
    def records(self) -> list[Facts]:
        """The records of the stages, each with its label and kind."""
        return [stage.info | {"name": stage.name, "kind": stage.kind.name} for stage in self.stages]

    @property
    def policies(self) -> list[StageFacts]:
        """The stages that write answers."""
        return [stage for stage in self.stages if not stage.kind.scores]


def read_run(run_dir: Path) -> RunFacts:
    """Return what the files of a run say.

    Raises:
        Unsound: a record among them.
    """
    problems: list[str] = []
    info = RunInfo(run_dir)
    record: Facts = info.read() if info.file.exists() else {}
    directories = (file.parent.name for file in sorted(run_dir.glob(f"*/{StageLog.INFO}")))
    entries = record.get("stages") or [{"name": name, "output_dir": name} for name in directories]
    stages = [_stage(run_dir / entry["output_dir"], entry, record, problems) for entry in entries]
    status = status_now(run_dir, str(record.get("status", "unknown")))
    if status != "running":  # what was killed could not record its end
        stages = [replace(one, status="interrupted") if one.status == "running" else one for one in stages]
    return RunFacts(run_dir.name, record, status, stages, problems)


def _stage(directory: Path, entry: Mapping[str, Any], record: Facts, problems: list[str]) -> StageFacts:
    log, label = StageLog(directory), str(entry["name"])
    planned = {"config": (record.get("configs") or {}).get(label)}
    if directory.is_symlink():
        problems.append(f"{label}: its directory is a link, which may lead out of the run")
        return StageFacts(label, kinds.recorded(entry), str(entry.get("status", "pending")), sound(planned))
    info = log.read_info()
    label = str(info.get("name") or label)
    return StageFacts(
        name=label,
        kind=kinds.recorded({"name": label, "kind": info.get("kind") or entry.get("kind")}),
        status=str(info.get("status") or entry.get("status") or "pending"),
        info=sound(planned | info | {"disk_bytes": _size(directory) if directory.is_dir() else None}),
        metrics=[line for line in _lines(log.metrics_file) if isinstance(line.get("step"), int)],
        samples=list(_lines(directory / SAMPLES_FILE)),
    )


def sound(info: Mapping[str, Any]) -> Facts:
    """Return the record of a stage with every field that the report reads, empty where it is missing."""
    empty: Facts = dict.fromkeys(NUMBERS) | {name: {} for name in OBJECTS} | {name: [] for name in LISTS}
    return empty | {name: value for name, value in info.items() if value is not None}


def _lines(file: Path) -> Iterator[Facts]:
    """Yield the objects of a .jsonl file; the last line of one that is being written may be none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.split("\n"):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _size(directory: Path) -> int:
    """Return the bytes of the files below; what a run removes meanwhile, such as an old checkpoint, counts 0."""
    return sum(_file_size(Path(parent, name)) for parent, _, names in os.walk(directory) for name in names)


def _file_size(file: Path) -> int:
    try:
        found = file.lstat()
    except OSError:
        return 0
    return found.st_size if S_ISREG(found.st_mode) else 0


def mapping(value: Any) -> Facts:
    """Return an object of a record; {} where it is none."""
    return dict(value) if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Facts]:
    """Return the objects of a list of a record; [] where there is no list."""
    return [dict(one) for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """Return a number of a record; None where it is none, or not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return None if math.isnan(value) else float(value)
