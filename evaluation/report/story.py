"""What a run's measurements come to: the verdict on each stage, what was gained over the chain, what was forgotten."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from evaluation.metrics import verdict
from evaluation.report.facts import Facts, RunFacts, StageFacts
from evaluation.table import number, shown
from kinds import Kind
from utils.console import duration
from utils.text import one_line

DOCUMENTS = "documents"
NOT_REPEATED = ("completion_tokens", "perplexity", "flexible")
"""Metrics that the ledger leaves out: neither way is better, or another one beside it says the same."""


def headline(stage: StageFacts) -> tuple[str, Facts] | None:
    """Return the result that a stage is judged by, with its name; None if it was not measured."""
    for pattern in stage.kind.headlines:
        for result in stage.results:
            if result["after"] is not None and fnmatchcase(f"{result['task']} {result['metric']}", pattern):
                return name_of(stage.kind, result), result
    return None


def verdict_on(stage: StageFacts) -> str:
    """Return what a stage was worth: better, worse, no evidence, not compared; or its status if it has not passed."""
    if stage.status != "passed":
        return stage.status
    judged = headline(stage)
    return (verdict(judged[1]["metric"], judged[1]["ci95"]) if judged else "") or "not compared"


def name_of(kind: Kind, result: Facts) -> str:
    """Return the name of what a result measures."""
    named = next(shown(kind, [result]), (f"{result['task']} {result['metric']}".replace("_", " "), result))
    return named[0].strip()


def change(result: Facts) -> str:
    """Return a result before and after, and where there is no before what there is."""
    after = number(result["after"])
    return after if result["before"] is None else f"{number(result['before'])} → {after}"


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
    measured = [{(one["task"], one["metric"]): one for one in stage.results} for stage in policies]
    names: dict[tuple[str, str], str] = {}
    for stage, results in zip(policies, measured, strict=True):
        for key, result in results.items():
            names.setdefault(key, name_of(stage.kind, result))
    rows = []
    for (task, metric), name in names.items():
        if "/" in metric or metric in NOT_REPEATED or "prefers" in metric:
            continue
        after = [results.get((task, metric)) for results in measured]
        cells = [_cell(one, "after") for one in after]
        if sum(cell is not None for cell in cells) > (0 if task == DOCUMENTS else 1):
            start = [_cell(after[0], "before")] if has_input else []
            rows.append(LedgerRow(name, task == DOCUMENTS, [*start, *cells]))
    rows.sort(key=lambda row: not row.is_of_documents)
    start_name = "input" if has_input and policies[0].input_ref else "random weights"
    return [*([start_name] if has_input else []), *(stage.name for stage in policies)], rows


def _cell(result: Facts | None, side: str) -> tuple[float, str] | None:
    if result is None or result[side] is None:
        return None
    return float(result[side]), verdict(result["metric"], result["ci95"]) if side == "after" else ""


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
    judged = {word: _judged(run, word) for word in ("better", "worse", "no evidence", "not compared")}
    better, *others = (f"{word.capitalize()}: {', '.join(told)}" if told else "" for word, told in judged.items())
    lines = [_ending(run), _whole_chain(run), better, "; ".join(filter(None, others)), _warnings(run)]
    return [one_line(line) for line in lines if line]


def _ending(run: RunFacts) -> str:
    passed = sum(stage.status == "passed" for stage in run.stages)
    took = sum(stage.info["duration_s"] or 0 for stage in run.stages)
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
    used = [stage.info["energy_j"] for stage in run.stages if stage.info["duration_s"]]
    return None if None in used else sum(used, 0.0)


def _whole_chain(run: RunFacts) -> str:
    columns, rows = ledger(run)
    exact = [row for row in rows if row.name == "exact match"]
    for row in exact or [row for row in rows if not row.is_of_documents] or rows:
        reached = [(column, cell[0]) for column, cell in zip(columns, row.cells, strict=True) if cell]
        if len(reached) > 1:
            return f"Over the chain: {row.name} " + ", ".join(f"{number(value)} {column}" for column, value in reached)
    return ""


def _judged(run: RunFacts, word: str) -> list[str]:
    stages = [(stage, result) for stage in run.stages if (result := headline(stage)) and verdict_on(stage) == word]
    return [f"{stage.name} ({name} {change(result)})" for stage, (name, result) in stages]


def _warnings(run: RunFacts) -> str:
    worse = forgotten(run)
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    alarms = sum(len(stage.info["alarms"]) for stage in run.stages)
    parts = [f"Forgotten: {'; '.join(worse[:3])}{more}"] if worse else []
    return ". ".join([*parts, *([f"{alarms} alarm{'s' if alarms > 1 else ''}"] if alarms else [])])
