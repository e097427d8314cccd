"""What a run's files say of it, read as far as they are there: of what is missing or broken, nothing is made up."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.samples import SAMPLES_FILE
from utils.errors import Refused
from utils.files import read_json
from utils.run_directory import STAGE_DIR, status_now
from utils.stage_log import StageLog

Facts = dict[str, Any]
MODELS_OUTPUT = 'StageOutput("{}")'
"""How a record names the output of a stage."""


@dataclass(frozen=True)
class StageFacts:
    """One stage: its entry in run_info.json and the files of its directory; empty where there is none."""

    name: str
    status: str
    info: Facts = field(default_factory=dict)
    results: list[Facts] = field(default_factory=list)
    metrics: list[Facts] = field(default_factory=list)
    samples: list[Facts] = field(default_factory=list)
    disk_bytes: int | None = None

    @property
    def input_ref(self) -> str | None:
        """What it started from, as the recipe names it; None for random weights."""
        model = mapping(self.info.get("input")).get("ref") or mapping(self.info.get("config")).get("model_name")
        return None if model is None else str(model)

    @property
    def is_policy(self) -> bool:
        """Whether it writes answers; a reward model scores them."""
        return self.name != "reward"


@dataclass(frozen=True)
class RunFacts:
    """A run: its record, its stages in their order, and what could not be read."""

    run_id: str
    record: Facts
    status: str
    stages: list[StageFacts]
    problems: list[str]

    @property
    def policies(self) -> list[StageFacts]:
        """The stages that write answers."""
        return [stage for stage in self.stages if stage.is_policy]


def read_run(run_dir: Path) -> RunFacts:
    """Return what the files of a run say."""
    problems: list[str] = []
    record = mapping(_read(run_dir / "run_info.json", problems))
    recorded = {str(entry["name"]): entry for entry in items(record.get("stages")) if "name" in entry}
    found = {path.parent.name: path.parent for path in sorted(run_dir.glob(f"*/{StageLog.INFO}"))}
    if not recorded:  # the run's own record is what was lost
        recorded = {name: {"output_dir": name} for name in found}
    planned = mapping(record.get("configs"))
    stages = [_stage(run_dir, name, entry, mapping(planned.get(name)), problems) for name, entry in recorded.items()]
    status = status_now(run_dir, str(record.get("status", "unknown")))
    if status != "running":
        stages = [_stopped(stage) for stage in stages]
    return RunFacts(run_dir.name, record, status, stages, problems)


def _stopped(stage: StageFacts) -> StageFacts:
    """Return a stage of a run that is not under way: what was killed could not record its end."""
    return StageFacts(**vars(stage) | {"status": "interrupted"}) if stage.status == "running" else stage


def _stage(run_dir: Path, name: str, entry: Mapping[str, Any], config: Facts, problems: list[str]) -> StageFacts:
    directory = run_dir / str(entry.get("output_dir"))
    if not STAGE_DIR.fullmatch(directory.name) or directory.parent != run_dir or directory.is_symlink():
        problems.append(f"{name}: its directory is no directory inside the run's")
        return StageFacts(name, str(entry.get("status", "pending")))
    log = StageLog(directory)
    info = {"config": config} | mapping(_read(log.info_file, problems))  # of a pending stage the recipe's alone
    return StageFacts(
        name=str(info.get("name") or name),
        status=str(info.get("status") or entry.get("status") or "pending"),
        info=info,
        results=[result for one in items(info.get("evaluation")) if (result := _result(one))],
        metrics=[line for line in _lines(log.metrics_file) if isinstance(line.get("step"), int)],
        samples=list(_lines(directory / SAMPLES_FILE)),
        disk_bytes=_size(directory) if directory.is_dir() else None,
    )


def _result(found: Mapping[str, Any]) -> Facts | None:
    """Return a result with every field of its type; None if it does not say what was measured."""
    if not (isinstance(found.get("task"), str) and isinstance(found.get("metric"), str)):
        return None
    interval = found.get("ci95")
    ends = [number(end) for end in interval] if isinstance(interval, list) else []
    return {
        **found,
        "n": found.get("n", 0),
        "before": number(found.get("before")),
        "after": number(found.get("after")),
        "ci95": ends if len(ends) == 2 and None not in ends else None,
    }


def _read(file: Path, problems: list[str]) -> Any:
    if not file.exists():
        return None
    try:
        return read_json(file)
    except Refused as refused:
        problems.append(str(refused))
        return None


def _lines(file: Path) -> Iterator[Facts]:
    """Yield the objects of a .jsonl file; the last line of one that is being written may be none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


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
