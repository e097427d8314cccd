"""What a run was trained on: the data of its stages, and of those of other runs and directories it was built on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluation.comparison import Recorded
from utils.errors import Refused
from utils.files import read_json, user_path
from utils.run_directory import RunInfo, find
from utils.stage_log import StageLog

STAGE_OUTPUT = re.compile(r'StageOutput\("(\w+)"\)')


@dataclass(frozen=True)
class Trained:
    """A stage that has begun, with what decides its rows."""

    run: str
    """The run's id; of a directory outside of runs its name."""
    kind: str
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    """What stage_info.json tells; {} where there is none."""

    @property
    def name(self) -> str:
        """What its data are called."""
        return f"{self.run}/{self.kind} {self.config['dataset_name']}"

    @property
    def fingerprint(self) -> str | None:
        """Of the rows, as the stage recorded it."""
        return (self.record.get("data") or {}).get("fingerprint")

    @property
    def options(self) -> Any:
        """The configuration, as what loads data takes it."""
        return SimpleNamespace(**self.config)


class Lineage:
    """The stages that a run's models come from, or the model of one stage; those that others are built on first."""

    def __init__(self, info: RunInfo, runs_dir: Path, only: str | None = None) -> None:
        self.run_id = info.run_dir.name
        self._runs_dir, self._seen = runs_dir, set[tuple[str, str]]()
        self.unknown: list[str] = []
        """Models of which no record here tells what they were trained on."""
        self.stages = list(self._of_run(info, None if only is None else {only}))

    def _of_run(self, info: RunInfo, only: set[str] | None) -> Iterator[Trained]:
        """Yield the stages of a run that have begun, or `only` some, after what they were built on."""
        run = Recorded(info)
        begun = {entry["name"] for entry in run.record["stages"] if entry["status"] != "pending"}
        for kind in run.kinds:
            if kind in (begun if only is None else only) and (run.id, kind) not in self._seen:
                yield from self._of_stage(run, kind)

    def _of_stage(self, run: Recorded, kind: str) -> Iterator[Trained]:
        self._seen.add((run.id, kind))
        config = (run.record.get("configs") or {}).get(kind) or run.stage(kind).get("config")
        if not isinstance(config, dict) or "dataset_name" not in config:
            raise Refused(f"{run.run_dir} does not say what its stage {kind} was trained on")
        for model in _models(config):
            named = STAGE_OUTPUT.fullmatch(model)
            if named and named[1] in run.kinds:
                if (run.id, named[1]) not in self._seen:
                    yield from self._of_stage(run, named[1])
            elif named:
                source = run.record.get("from_run")
                if not source:
                    raise Refused(f"{run.run_dir}: {kind} starts from {model}, and no run it came from is named")
                yield from self._of_run(find(self._runs_dir, source), {named[1]})
            else:
                yield from self._of_directory(model)
        yield Trained(run.id, kind, config, run.stage(kind))

    def _of_directory(self, model: str) -> Iterator[Trained]:
        """Yield the stage that wrote a model outside of the run, and what it came from, as far as records tell."""
        directory = user_path(model)
        file = directory / StageLog.INFO
        record = read_json(file) if file.is_file() else {}
        if not isinstance(record, dict) or "dataset_name" not in (record.get("config") or {}):
            if model not in self.unknown:
                self.unknown.append(model)
            return
        if (key := (str(directory.resolve()), str(record["name"]))) in self._seen:
            return
        self._seen.add(key)
        if source := (record.get("input") or {}).get("path"):
            yield from self._of_directory(source)
        yield Trained(directory.name, record["name"], record["config"], record)


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models that a recorded stage was made from, by the names of the recipe."""
    if name := config.get("model_name"):
        yield name
    rewards = (config.get("grpo_extra") or {}).get("reward_func") or []
    yield from (one for one in rewards if STAGE_OUTPUT.fullmatch(str(one)))
