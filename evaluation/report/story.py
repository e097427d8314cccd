"""What a run's measurements come to: the verdict on each stage, what was gained over the chain, what was forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from evaluation.metrics import verdict
from evaluation.report import facts
from evaluation.report.facts import Facts, RunFacts, StageFacts, items
from evaluation.table import number, shown
from kinds import KINDS, named, recorded
from utils.console import duration
from utils.text import one_line

DOCUMENTS = "documents"
NOT_REPEATED = ("completion_tokens", "perplexity", "flexible")
"""Metrics that the ledger leaves out: neither way is better, or another one beside it says the same."""


def headline(stage: StageFacts) -> tuple[str, Facts] | None:
    """Return the result that a stage is judged by, with its name; None if it was not measured."""
    for pattern in recorded({"name": stage.name}).headlines:
        for result in stage.results:
            if result["after"] is not None and fnmatchcase(f"{result['task']} {result['metric']}", pattern):
                return label(result), result
    return None


def verdict_on(stage: StageFacts) -> str:
    """Return what a stage was worth: better, worse, no evidence, not compared; or its status if it has not passed."""
    if stage.status != "passed":
        return stage.status
    found = headline(stage)
    return (verdict(found[1]["metric"], found[1]["ci95"]) if found else "") or "not compared"


def label(result: Facts) -> str:
    """Return the name of what a result measures."""
    name = f"{result['task']} {result['metric']}"
    figures = (named(kind).figures for kind in KINDS)
    labels = (one for patterns in figures for pattern, one in patterns.items() if pattern == name)
    return next(labels, str(result["metric"] if result["task"] == "rewards" else name).replace("_", " "))


def change(result: Facts) -> str:
    """Return a result before and after, and where there is no before what there is."""
    after = number(result["after"])
    return after if result["before"] is None else f"{number(result['before'])} → {after}"


def rows_of(stage: StageFacts) -> list[tuple[str, Facts]]:
    """Return what is shown of a stage's results, each with its name."""
    return [(name, dict(one)) for name, one in shown(recorded({"name": stage.name}), stage.results)]


@dataclass(frozen=True)
class LedgerRow:
    """One measurement that is repeated after later stages: its value there, and the verdict on each change."""

    name: str
    is_of_documents: bool
    cells: list[tuple[float, str] | None]
    """A value and a verdict for each column; None where it was not measured."""


def ledger(run: RunFacts) -> tuple[list[str], list[LedgerRow]]:
    """Return the columns, the policy stages in their order with what the first started from, and the rows.

    A row is there for the documents of pretraining, and for whatever is measured after two stages or more.
    """
    policies = [stage for stage in run.policies if stage.results]
    has_input = bool(policies) and any(result["before"] is not None for result in policies[0].results)
    kinds = {(one["task"], one["metric"]): one for stage in policies for one in stage.results}
    rows = []
    for (task, metric), example in kinds.items():
        if "/" in metric or metric in NOT_REPEATED or "prefers" in metric:
            continue
        found = [_result(stage, task, metric) for stage in policies]
        values = [one is not None and one["after"] is not None for one in found]
        if not (any(values) if task == DOCUMENTS else sum(values) > 1):
            continue
        cells = [_cell(one) for one in found]
        if has_input:
            first = found[0]
            cells.insert(0, (first["before"], "") if first and first["before"] is not None else None)
        rows.append(LedgerRow(label(example), task == DOCUMENTS, cells))
    rows.sort(key=lambda row: not row.is_of_documents)
    start = "input" if has_input and policies[0].input_ref else "random weights"
    return [*([start] if has_input else []), *(stage.name for stage in policies)], rows


def _result(stage: StageFacts, task: str, metric: str) -> Facts | None:
    return next((one for one in stage.results if (one["task"], one["metric"]) == (task, metric)), None)


def _cell(result: Facts | None) -> tuple[float, str] | None:
    if result is None or result["after"] is None:
        return None
    return result["after"], verdict(result["metric"], result["ci95"])


def forgotten(run: RunFacts) -> list[str]:
    """Return what got worse by a later stage, with the values before and after."""
    columns, rows = ledger(run)
    worse = []
    for row in rows:
        before: tuple[float, str] | None = None
        for column, cell in zip(columns, row.cells, strict=True):
            if cell and before and cell[1] == "worse":
                worse.append(f"{row.name} {number(before[0])} → {number(cell[0])} by {column}")
            before = cell or before
    return worse


def summary(run: RunFacts) -> list[str]:
    """Return at most five lines: how it ended, what it reached, which stages helped, which did not, what it cost."""
    lines = [_ending(run), _whole_chain(run), _helped(run), _did_not_help(run), _warnings(run)]
    return [one_line(line) for line in lines if line]


def _ending(run: RunFacts) -> str:
    passed = sum(stage.status == "passed" for stage in run.stages)
    took = sum(filter(None, (facts.number(stage.info.get("duration_s")) for stage in run.stages)))
    used = energy_j(run)
    words = f"{run.status.capitalize()}{f' after {duration(took)}' if took else ''}"
    words += f" and {used / 3600:.2f} Wh" if took and used else ""
    ended = f"{words}: {passed} of {len(run.stages)} stages passed" if run.stages else f"{words}: no stage has begun"
    failed = next((stage for stage in run.stages if stage.status == "failed"), None)
    if failed is None:
        return f"{ended}."
    reason = str(failed.info.get("error") or "it left no reason").partition("\n")[0]
    return f"{ended}; {failed.name} failed: {reason:.200}"


def energy_j(run: RunFacts) -> float | None:
    """Return the energy that the stages took; None unless it is known of every stage that has begun."""
    begun = [stage.info for stage in run.stages if facts.number(stage.info.get("duration_s"))]
    found = [facts.number(info.get("energy_j")) for info in begun]
    return None if None in found else sum(filter(None, found), 0.0)


def _whole_chain(run: RunFacts) -> str:
    columns, rows = ledger(run)
    exact = [row for row in rows if row.name == "exact match"]
    for row in exact or [row for row in rows if not row.is_of_documents] or rows:
        reached = [(column, cell[0]) for column, cell in zip(columns, row.cells, strict=True) if cell]
        if len(reached) > 1:
            return f"Over the chain: {row.name} " + ", ".join(f"{number(value)} {column}" for column, value in reached)
    return ""


def _helped(run: RunFacts) -> str:
    better = [f"{stage.name} ({found[0]} {change(found[1])})" for stage, found in _judged(run, "better")]
    return f"Better: {', '.join(better)}" if better else ""


def _did_not_help(run: RunFacts) -> str:
    said = []
    for which in ("worse", "no evidence", "not compared"):
        stages = [f"{stage.name} ({found[0]} {change(found[1])})" for stage, found in _judged(run, which)]
        if stages:
            said.append(f"{which.capitalize()}: {', '.join(stages)}")
    return "; ".join(said)


def _judged(run: RunFacts, which: str) -> Iterator[tuple[StageFacts, tuple[str, Facts]]]:
    for stage in run.stages:
        if (found := headline(stage)) and verdict_on(stage) == which:
            yield stage, found


def _warnings(run: RunFacts) -> str:
    worse = forgotten(run)
    said = (
        [f"Forgotten: {'; '.join(worse[:3])}{f' and {len(worse) - 3} more' if len(worse) > 3 else ''}"] if worse else []
    )
    if alarms := sum(len(items(stage.info.get("alarms"))) for stage in run.stages):
        said.append(f"{alarms} alarm{'s' if alarms > 1 else ''}")
    return ". ".join(said)
