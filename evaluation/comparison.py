"""Runs side by side: what differs in settings, data and environment, and every result with its interval."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from evaluation.checkpoint import CACHE_FILE
from evaluation.compare import Result, difference_of
from evaluation.metrics import TOKEN_METRICS, verdict
from evaluation.sections import Section
from evaluation.table import difference, number
from utils.console import duration
from utils.errors import Refused
from utils.files import read_json
from utils.run_directory import RunInfo, status_now
from utils.stage_log import StageLog

RESOLVED = "trainer"
"""The part of a stage's configuration that is known when it has begun: what the trainer made of the rest."""


class Recorded:
    """A run as its files tell it, however far it went."""

    def __init__(self, info: RunInfo) -> None:
        self.run_dir, self.id = info.run_dir, info.run_dir.name
        self.record = info.read()
        if not all(isinstance(entry, dict) and {"name", "output_dir", "status"} <= entry.keys()
                   for entry in self.record["stages"]):  # fmt: skip
            raise Refused(f"{info.file} is no record of a run: a stage lacks its name, output_dir or status")
        self.kinds = [str(entry["name"]) for entry in self.record["stages"]]
        self.directories = {str(entry["name"]): self.run_dir / entry["output_dir"] for entry in self.record["stages"]}
        self.stages = {kind: _object(directory / StageLog.INFO) for kind, directory in self.directories.items()}

    @property
    def status(self) -> str:
        """Its status, of a run that was killed too."""
        return status_now(self.run_dir, str(self.record["status"]))

    def stage(self, kind: str) -> Mapping[str, Any]:
        """Return the record of a stage; {} of one that has not begun, or is not in the run."""
        return self.stages.get(kind) or {}

    def config(self, kind: str) -> dict[str, Any]:
        """Return every resolved value of a stage, or what the recipe says of one that has not begun, by dotted name."""
        config = self.stage(kind).get("config") or (self.record.get("configs") or {}).get(kind) or {}
        return {name: self.within(value) for name, value in flattened(config).items()}

    def within(self, value: Any) -> Any:
        """Return a value with the directory of the run, wherever it was, as RUN: it is never the same."""
        return re.sub(rf"[^'\"]*{re.escape(self.id)}", "RUN", value) if isinstance(value, str) else value

    def results(self, kind: str) -> dict[tuple[str, str], Result]:
        """Return a stage's results by task and metric."""
        try:
            return {(one["task"], one["metric"]): one for one in self.stage(kind).get("evaluation") or []}
        except (KeyError, TypeError) as error:
            raise Refused(f"{self.directories[kind] / StageLog.INFO}: evaluation is no list of results") from error

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The scores of every example, by stage: of its output alone, under `TASK-VERSION-DATA-OPTIONS@READING`."""
        return {kind: dict(self._scores_of(kind)) for kind in self.kinds}

    def _scores_of(self, kind: str) -> Iterator[tuple[str, Any]]:
        file, weights = self.directories[kind] / CACHE_FILE, (self.stage(kind).get("output") or {}).get("sha256")
        for key, value in _object(file).items():
            task, _, read = key.partition("@")
            if weights and isinstance(value, dict) and read.startswith(own := f"{weights[:16]}-"):
                yield f"{task}@{read.removeprefix(own)}", value


def _object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is none."""
    found = read_json(file) if file.exists() else {}
    if not isinstance(found, dict):
        raise Refused(f"{file} holds no JSON object: it is no record of a stage")
    return found


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names.

    >>> flattened({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    parts = (flattened(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return dict(chain.from_iterable(part.items() for part in parts))


def compared(one: RunInfo, other: RunInfo) -> list[Section]:
    """Return all that can be said of two runs side by side, as tables."""
    a, b = Recorded(one), Recorded(other)
    kinds = list(dict.fromkeys([*a.kinds, *b.kinds]))
    metrics = [section for kind in kinds if (section := _metrics(a, b, kind))]
    return [_runs(a, b, kinds), _environment(a, b), _settings(a, b, kinds), _data(a, b, kinds), *metrics,
            _cost(a, b, kinds)]  # fmt: skip


def _differing(title: str, first: Sequence[str], rows: list[tuple[str, ...]]) -> Section:
    kept = [row for row in rows if row[-2] != row[-1]]
    same = "" if kept else "nothing differs"
    return Section(title, (*first, "A", "B"), kept, same)


def _runs(a: Recorded, b: Recorded, kinds: list[str]) -> Section:
    facts = {name: [shown(run.record.get(name)) for run in (a, b)] for name in ("recipe", "from_run", "started_at")}
    rows = [("status", a.status, b.status), *((name, *values) for name, values in facts.items())]
    for kind in kinds:
        rows.append((f"stage {kind}", *(_ended(run, kind) for run in (a, b))))
    return Section(f"A is {a.id}, B is {b.id}", ("", "A", "B"), rows)


def _ended(run: Recorded, kind: str) -> str:
    if kind not in run.kinds:
        return "not in the run"
    entry = next(entry for entry in run.record["stages"] if entry["name"] == kind)
    status = status_now(run.run_dir, str(entry["status"]))
    error, alarms = (run.stage(kind).get(name) for name in ("error", "alarms"))
    status += f", {len(alarms)} alarms" if alarms else ""
    return f"{status}: {error}" if error else status


def _environment(a: Recorded, b: Recorded) -> Section:
    names = ("versions", "hardware", "git_commit", "code", "processes", "seed", "limits")
    facts = [flattened({name: run.record.get(name) for name in names}) for run in (a, b)]
    return _differing("Environment", ("what",), _both(*facts))


def _settings(a: Recorded, b: Recorded, kinds: list[str]) -> Section:
    rows: list[tuple[str, ...]] = []
    for kind in kinds:
        if kind in a.kinds and kind in b.kinds:
            configs = [run.config(kind) for run in (a, b)]
            if not all(any(name.startswith(f"{RESOLVED}.") for name in config) for config in configs):
                configs = [
                    {name: value for name, value in config.items() if not name.startswith(f"{RESOLVED}.")}
                    for config in configs
                ]
            rows += [(kind, *row) for row in _both(*configs)]
    return _differing("Settings", ("stage", "value"), rows)


def _data(a: Recorded, b: Recorded, kinds: list[str]) -> Section:
    rows: list[tuple[str, ...]] = []
    for kind in kinds:
        facts = []
        for run in (a, b):
            stage = run.stage(kind)
            data = {name: value for name, value in (stage.get("data") or {}).items() if name != "parts"}
            data |= {side: _short(stage.get(side)) for side in ("input", "output") if stage.get(side)}
            facts.append(flattened(data))
        if all(facts):
            rows += [(kind, *row) for row in _both(*facts)]
    return _differing("Data and weights", ("stage", "what"), rows)


def _short(weights: Mapping[str, Any] | None) -> str:
    return f"weights {str((weights or {}).get('sha256'))[:16]}"


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(name, shown(one.get(name)), shown(other.get(name))) for name in dict.fromkeys([*one, *other])]


def shown(value: Any) -> str:
    """Return a recorded value as it is shown; a dash for none."""
    return "–" if value is None else value if isinstance(value, str) else repr(value)


def _metrics(a: Recorded, b: Recorded, kind: str) -> Section | None:
    title, columns = f"Results of {kind}", ("measure", "n", "A", "B", "B − A, 95 %", "")
    measured = [run.results(kind) for run in (a, b)]
    if not all(measured):
        return Section(title, columns, [], f"not measured in {'B' if measured[0] else 'A'}") if any(measured) else None
    rows, reasons = [], dict[str, str]()
    for task, metric in dict.fromkeys(chain(*measured)):
        found, why = paired(a, b, kind, task, metric)
        mark = verdict(metric, found["ci95"]) or reasons.setdefault(why, f"({len(reasons) + 1})")
        values = (number(found["before"]), number(found["after"]))
        rows.append((f"{task} {metric}", str(found["n"] or "–"), *values, difference(found), mark))
    told = ["After the stage, on held-out examples. B − A is of the same examples."]
    return Section(title, columns, rows, "\n".join([*told, *(f"{mark} {why}" for why, mark in reasons.items())]))


def paired(a: Recorded, b: Recorded, kind: str, task: str, metric: str) -> tuple[Result, str]:
    """Return what a metric is after the stage in both runs, as a result whose before is A's and whose after is B's.

    Where both scored the same examples with the same options and version of the task, `n`, means and interval are of
    these; else there is no interval, and the second value says why.
    """
    ends = [run.results(kind).get((task, metric), {}) for run in (a, b)]
    values = [end.get("after") for end in ends]
    plain = {"task": task, "metric": metric, "n": min(int(end.get("n") or 0) for end in ends), "ci95": None}
    plain |= {"before": values[0], "after": values[1]}
    if None in values:
        return plain, "not measured in both"
    if metric == "perplexity":
        return plain, "e to the power of the loss"
    if task == "reward_model":
        return plain, "judged by each run's own reward model"
    kept = [_scores(run, kind, task, metric) for run in (a, b)]
    if not all(kept):
        return plain, "the scores of each example are not kept"
    shared = kept[0].keys() & kept[1].keys()
    if not shared:
        return plain, _apart(*(next(iter(scores)) for scores in kept))
    (key,) = sorted(shared)[:1]
    (reading, before), (other_reading, after) = kept[0][key], kept[1][key]
    if metric in TOKEN_METRICS.get(task, ()) and reading != other_reading:
        return plain, "another tokenizer or chat template: tokens are not the same"
    if len(before) != len(after):
        raise Refused(f"{b.directories[kind] / CACHE_FILE} has {len(after)} scores under {key}, not {len(before)}")
    found = difference_of(task, metric, before, after)
    return found, "" if found["ci95"] else found.get("reason") or "too few examples for an interval"


def _apart(one: str, other: str) -> str:
    """Return what two keys `TASK-VERSION-DATA-OPTIONS` do not share."""
    parts = zip(("version of the task", "examples", "options"), one.split("-")[-3:], other.split("-")[-3:], strict=True)
    return f"measured with other {' and '.join(name for name, *values in parts if len(set(values)) > 1)}"


def _scores(run: Recorded, kind: str, task: str, metric: str) -> dict[str, tuple[str, list[float | None]]]:
    """Return how the output was read, and the score of each example, by task, version, data and options."""
    found = {}
    for key, scores in run.scores.get(kind, {}).items():
        asked, _, reading = key.partition("@")
        if asked.startswith(f"{task}-v") and metric in scores:
            found[asked] = (reading, scores[metric])
    return found


def _cost(a: Recorded, b: Recorded, kinds: list[str]) -> Section:
    rows: list[tuple[str, ...]] = []
    totals = [0.0, 0.0]
    for kind in kinds:
        costs = [run.stage(kind) for run in (a, b)]
        if not all(cost.get("duration_s") for cost in costs):
            continue
        totals = [total + cost["duration_s"] for total, cost in zip(totals, costs, strict=True)]
        rows.append((kind, "time", *(duration(cost["duration_s"]) for cost in costs), _ratio(costs, "duration_s")))
        for name in ("steps", "tokens"):
            rows.append((kind, name, *(f"{cost.get(name) or 0:,}" for cost in costs), _ratio(costs, name)))
        peaks = [(cost.get("peak_memory_bytes") or 0) / 2**30 for cost in costs]
        rows.append((kind, "peak of memory, GiB", *(f"{p:.2f}" for p in peaks), _ratio(costs, "peak_memory_bytes")))
    if rows:
        ratio = f"{totals[1] / totals[0]:.2f}"
        rows.append(("stages of both", "time", *(duration(total) for total in totals), ratio))
    said = "" if rows else "no stage has ended in both"
    return Section("Cost", ("stage", "what", "A", "B", "B / A"), rows, said)


def _ratio(costs: Sequence[Mapping[str, Any]], name: str) -> str:
    one, other = (cost.get(name) or 0 for cost in costs)
    return f"{other / one:.2f}" if one else "–"
