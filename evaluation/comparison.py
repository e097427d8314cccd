"""Runs side by side: every result with its interval, and what differs in settings, data and environment."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from evaluation.before_and_after import Result, difference_of
from evaluation.costs import COSTS, shown_cost
from evaluation.metrics import TOKEN_METRICS, verdict
from evaluation.scored_model import CACHE_FILE
from evaluation.sections import Section
from evaluation.table import TINY, difference, number
from records.run_directory import RunInfo, status_now
from records.stage_log import read_object
from utils.console import duration
from utils.errors import Refused

ENVIRONMENT = ("versions", "hardware", "git_commit", "code", "processes", "seed", "limits")
FACTS = ("recipe", "from_run", "started_at")
CODE = "code."
TOLD = 8
"""Files of code that are named."""
ONCE_BEGUN = ("data.", "weights.", CODE)
"""What is known only where a stage has begun."""


class Recorded:
    """A run as its files tell it, however far it went."""

    def __init__(self, info: RunInfo) -> None:
        self.run_dir, self.id = info.run_dir, info.run_dir.name
        self.record = info.read()
        self.entries = {str(entry["name"]): entry for entry in self.record["stages"]}
        """What run_info.json tells of each stage, by label."""
        self._stages = info.read_stages()

    def directory(self, label: str) -> Path:
        """Return the directory of a stage."""
        return self.run_dir / str(self.entries[label]["output_dir"])

    @property
    def status(self) -> str:
        """Its status, of a run that was killed too."""
        return status_now(self.run_dir, str(self.record["status"]))

    def stage(self, label: str) -> Mapping[str, Any]:
        """Return the record of a stage; {} of one that has not begun, or is not in the run."""
        return self._stages.get(label) or {}

    def has_begun(self, label: str) -> bool:
        """Tell whether a stage's trainer has said what it made of the settings."""
        return bool((self.stage(label).get("config") or {}).get("trainer"))

    def facts(self, label: str, *, as_trained: bool) -> dict[str, Any]:
        """Return the settings, the data and the weights of a stage by name, each once; None where there is nothing.

        The settings are those that it trained with, or, if not `as_trained`, what the recipe sets. The directory of the
        run, wherever it was, is RUN: it is never the same.
        """
        stage = self.stage(label)
        settings = dict(stage.get("config") or (self.record.get("configs") or {}).get(label) or {})
        trained = settings.pop("trainer", None) or {}
        settings |= {**(settings.pop("trainer_args", None) or {}), **(settings.pop("grpo_extra", None) or {})}
        data = {name: value for name, value in (stage.get("data") or {}).items() if name not in ("parts", "name")}
        weights = {side: str(stage[side].get("sha256"))[:16] for side in ("input", "output") if stage.get(side)}
        own = re.compile(rf"[^'\"]*{re.escape(self.id)}")
        flat = flattened(settings | (trained if as_trained else {}) | {"data": data, "weights": weights}).items()
        named = ((name, None if value in ({}, []) else value) for name, value in flat)
        return {name: own.sub("RUN", value) if isinstance(value, str) else value for name, value in named}

    def results(self, label: str) -> dict[tuple[str, str], Result]:
        """Return a stage's results by task and metric."""
        return {(one["task"], one["metric"]): one for one in self.stage(label).get("evaluation", ())}

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The scores of every example, by stage: of its output alone, under `TASK-VERSION-DATA-OPTIONS@READING`."""
        return {label: dict(self._scores_of(label)) for label in self.entries}

    def _scores_of(self, label: str) -> Iterator[tuple[str, Any]]:
        weights = (self.stage(label).get("output") or {}).get("sha256")
        for key, value in read_object(self.directory(label) / CACHE_FILE, {}).items():
            task, _, read = key.partition("@")
            if weights and isinstance(value, dict) and read.startswith(own := f"{weights[:16]}-"):
                yield f"{task}@{read.removeprefix(own)}", value


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names.

    >>> flattened({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    parts = (flattened(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return dict(chain.from_iterable(part.items() for part in parts))


def compared(infos: Sequence[RunInfo]) -> list[Section]:
    """Return all that can be said of runs side by side, as tables: first what came of them, then what differs.

    Each is set against the first. There are no more than letters, by which the tables name them.
    """
    runs = dict(zip(ascii_uppercase, map(Recorded, infos), strict=False))
    labels = list(dict.fromkeys(chain.from_iterable(run.entries for run in runs.values())))
    (_, first), *others = runs.items()
    results = [one for label in labels for name, other in others if (one := _results(first, other, label, name))]
    costs = [_costs(first, other, name) for name, other in others]
    return [_runs(runs, labels), *results, *costs, _differences(runs, labels)]


def _runs(runs: Mapping[str, Recorded], labels: Sequence[str]) -> Section:
    facts = {name: [shown(run.record.get(name)) for run in runs.values()] for name in FACTS}
    facts |= {f"stage {label}": [_ended(run, label) for run in runs.values()] for label in labels}
    rows = [("status", *(run.status for run in runs.values())), *((name, *values) for name, values in facts.items())]
    return Section(", ".join(f"{name} is {run.id}" for name, run in runs.items()), ("", *runs), rows)


def _ended(run: Recorded, label: str) -> str:
    if label not in run.entries:
        return "not in the run"
    status = status_now(run.run_dir, str(run.entries[label]["status"]))
    error, alarms = (run.stage(label).get(name) for name in ("error", "alarms"))
    status += f", alarms: {', '.join(alarm['name'] for alarm in alarms)}" if alarms else ""
    return f"{status}: {error}" if error else status


def _differences(runs: Mapping[str, Recorded], labels: Sequence[str]) -> Section:
    """Return the settings, data and environment that differ, each once, with the stages for which it does."""
    of: dict[str, list[Mapping[str, Any] | None]] = {
        "run": [flattened({name: run.record.get(name) for name in ENVIRONMENT}) for run in runs.values()]
    }
    for label in labels:
        begun = all(run.has_begun(label) for run in runs.values() if label in run.entries)
        of[label] = [run.facts(label, as_trained=begun) if label in run.entries else None for run in runs.values()]
    found: dict[tuple[str, ...], list[str]] = {}
    for label, facts in of.items():
        here = [one for one in facts if one is not None]
        for name in dict.fromkeys(chain.from_iterable(here)):
            told = [one for one in here if name in one or not name.startswith(ONCE_BEGUN)]
            if any(one.get(name) != told[0].get(name) for one in told):
                values = (shown((one or {}).get(name)) for one in facts)
                found.setdefault((name, *values), []).append(label)
    rows = [(", ".join(where), *row) for row, where in found.items() if not row[0].startswith(CODE)]
    files = [name.removeprefix(CODE) for name, *_ in found if name.startswith(CODE)]
    more = f" and {len(files) - TOLD} more" if len(files) > TOLD else ""
    note = f"sixgig's own code differs in {', '.join(files[:TOLD])}{more}" if files else ""
    return Section("What differs", ("of", "what", *runs), rows, note if rows or note else "nothing")


def shown(value: Any) -> str:
    """Return a recorded value as it is shown; a dash for none."""
    return "–" if value is None else value if isinstance(value, str) else repr(value)


def _results(a: Recorded, b: Recorded, label: str, name: str) -> Section | None:
    title, columns = f"Results of {label}, {name} against A", ("measure", "n", "A", name, f"{name} − A, 95 %", "")
    measured = [run.results(label) for run in (a, b)]
    if not all(measured):
        return Section(title, columns, [], f"not measured in {name if measured[0] else 'A'}") if any(measured) else None
    rows, reasons, both = [], dict[str, str](), [key for key in measured[0] if key in measured[1]]
    for task, metric in both:
        result, why = paired(a, b, label, task, metric)
        mark = verdict(result) or reasons.setdefault(why, f"({len(reasons) + 1})")
        values = (number(result["before"]), number(result["after"]))
        rows.append((f"{task} {metric}", str(result["n"] or "–"), *values, difference(result), mark))
    notes = [f"After the stage, on held-out examples. {name} − A is of the same examples."]
    notes += [TINY] if any(row[-1].startswith("tiny") for row in rows) else []
    notes += [f"{mark} {why}" for why, mark in reasons.items()]
    for side, results in zip(("A", name), measured, strict=True):
        if alone := [" ".join(key) for key in results if key not in both]:
            notes.append(f"Measured in {side} alone: {', '.join(alone)}")
    return Section(title, columns, rows, "\n".join(notes))


def paired(a: Recorded, b: Recorded, label: str, task: str, metric: str) -> tuple[Result, str]:
    """Return what a metric is after the stage in both runs, as a result whose before is A's and whose after is B's.

    Where both scored the same examples with the same options and version of the task, `n`, means and interval are of
    these; else there is no interval, and the second value says why.
    """
    ends = [run.results(label).get((task, metric), {}) for run in (a, b)]
    values = [end.get("after") for end in ends]
    plain = {"task": task, "metric": metric, "n": min(int(end.get("n") or 0) for end in ends), "ci95": None}
    plain |= {"before": values[0], "after": values[1]}
    if None in values:
        return plain, "not measured in both"
    if metric == "perplexity":
        return plain, "e to the power of the loss"
    if task == "reward_model":
        return plain, "judged by each run's own reward model"
    kept = [_scores(run, label, task, metric) for run in (a, b)]
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
        raise Refused(f"{b.directory(label) / CACHE_FILE} has {len(after)} scores under {key}, not {len(before)}")
    result = difference_of(task, metric, before, after)
    return result, "" if result["ci95"] else result.get("reason") or "too few examples for an interval"


def _apart(one: str, other: str) -> str:
    """Return what two keys `TASK-VERSION-DATA-OPTIONS` do not share."""
    parts = zip(("version of the task", "examples", "options"), one.split("-")[-3:], other.split("-")[-3:], strict=True)
    return f"measured with other {' and '.join(name for name, *values in parts if len(set(values)) > 1)}"


def _scores(run: Recorded, label: str, task: str, metric: str) -> dict[str, tuple[str, list[float | None]]]:
    """Return how the output was read, and the score of each example, by task, version, data and options."""
    found = {}
    for key, scores in run.scores.get(label, {}).items():
        asked, _, reading = key.partition("@")
        if asked.startswith(f"{task}-v") and metric in scores:
            found[asked] = (reading, scores[metric])
    return found


def _costs(a: Recorded, b: Recorded, name: str) -> Section:
    ended = {label: [run.stage(label) for run in (a, b)] for label in a.entries if label in b.entries}
    ended = {label: costs for label, costs in ended.items() if all(cost.get("duration_s") for cost in costs)}
    rows: list[tuple[str, ...]] = [
        (label, cost, shown_cost(one, cost), shown_cost(other, cost), _ratio(one[field], other[field]))
        for label, (one, other) in ended.items()
        for cost, (field, _) in COSTS.items()
        if one.get(field) is not None and other.get(field) is not None
    ]
    if ended:
        totals = [sum(costs[side]["duration_s"] for costs in ended.values()) for side in (0, 1)]
        rows.append(("stages of both", "time", *map(duration, totals), _ratio(*totals)))
    columns = ("stage", "what", "A", name, f"{name} / A")
    return Section(f"Cost, {name} against A", columns, rows, "" if rows else "no stage has ended in both")


def _ratio(one: Any, other: Any) -> str:
    return f"{other / one:.2f}" if one else "–"
