"""What a run was trained on: the data of its stages, and of those of other runs and directories it was built on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kinds
from evaluation.comparison import Recorded
from records.run_directory import RunInfo, find
from records.stage_log import StageLog
from utils.errors import Refused
from utils.files import user_path

STAGE_OUTPUT = re.compile(r'StageOutput\("(.+)"\)')


@dataclass(frozen=True)
class Trained:
    """A stage that has begun, with what decides its rows."""

    run: str
    """The run's id; of a directory outside of runs its name."""
    label: str
    kind: kinds.Kind
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    """What stage_info.json tells; {} where there is none."""

    @property
    def name(self) -> str:
        """What its data are called."""
        return f"{self.run}/{self.label} {self.config['dataset_name']}"

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
        self.stages = list(self._of_run(info, only))

    def _of_run(self, info: RunInfo, only: str | None) -> Iterator[Trained]:
        """Yield the stages of a run that have begun, or the one of that label, after what they were built on."""
        run = Recorded(info)
        for label, entry in run.entries.items():
            if label == only or (only is None and entry["status"] != "pending"):
                yield from self._of_stage(run, label)

    def _of_stage(self, run: Recorded, label: str) -> Iterator[Trained]:
        if (run.id, label) in self._seen:
            return
        self._seen.add((run.id, label))
        config = (run.record.get("configs") or {}).get(label) or run.stage(label).get("config")
        if not isinstance(config, dict) or "dataset_name" not in config:
            raise Refused(f"{run.run_dir} does not say what its stage {label} was trained on")
        for model in _models(config):
            output = STAGE_OUTPUT.fullmatch(model)
            if output is None:
                yield from self._of_directory(model)
            elif output[1] in run.entries:
                yield from self._of_stage(run, output[1])
            elif source := run.record.get("from_run"):
                yield from self._of_run(find(self._runs_dir, source), output[1])
            else:
                raise Refused(f"{run.run_dir}: {label} starts from {model}, and no run it came from is named")
        yield Trained(run.id, label, kinds.recorded(run.entries[label]), config, run.stage(label))

    def _of_directory(self, model: str) -> Iterator[Trained]:
        """Yield the stage that wrote a model outside of the run, and what it came from, as far as records tell."""
        directory = user_path(model)
        record = StageLog(directory).read_info()
        if "dataset_name" not in (record.get("config") or {}):
            if model not in self.unknown:
                self.unknown.append(model)
            return
        name = str(record.get("name"))
        if (key := (str(directory.resolve()), name)) in self._seen:
            return
        self._seen.add(key)
        if source := (record.get("input") or {}).get("path"):
            yield from self._of_directory(source)
        yield Trained(directory.name, name, kinds.recorded(record), record["config"], record)


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models that a recorded stage was made from, by the names of the recipe."""
    if name := config.get("model_name"):
        yield name
    rewards = (config.get("grpo_extra") or {}).get("reward_func") or []
    yield from (one for one in rewards if STAGE_OUTPUT.fullmatch(str(one)))
