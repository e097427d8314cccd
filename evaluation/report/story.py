"""What a run's measurements come to: the verdict on each stage, what was gained over the chain, what was forgotten."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from textwrap import shorten
from typing import Any, NamedTuple

from evaluation.measures import shown
from evaluation.metrics import verdict
from evaluation.report.facts import Facts, RunFacts, StageFacts
from evaluation.table import number
from utils.console import duration
from utils.text import one_line

DOCUMENTS = "documents "
LONGEST_REASON = 240
"""Letters of a failure's reason in the summary; the whole stands below."""
NOT_REPEATED = ("skills flexible", "reward_model prefers_after", "* completion_tokens", "*/*")
"""What the ledger leaves out: neither way is better, or the stage's own input is what it is compared with."""


def headline(stage: StageFacts) -> tuple[str, Facts] | None:
    """Return the result that a stage is judged by, with its name; None if it was not measured."""
    for pattern in stage.kind.headlines:
        for result in stage.results:
            name = f"{result['task']} {result['metric']}"
            if result["after"] is not None and fnmatchcase(name, pattern):
                return name, result
    return None


def verdict_on(stage: StageFacts) -> str:
    """Return what a stage was worth, one of `VERDICTS`; or its status if it has not passed."""
    if stage.status != "passed":
        return stage.status
    judged = headline(stage)
    return (verdict(judged[1]) if judged else "") or "not compared"


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

    A row is there for the documents of pretraining, and for whatever is shown and measured after two or more.
    """
    policies = [stage for stage in run.policies if stage.results]
    has_input = bool(policies) and any(result["before"] is not None for result in policies[0].results)
    measured = [{f"{one['task']} {one['metric']}": one for one in stage.results} for stage in policies]
    rows = []
    for name in dict.fromkeys(name for stage in policies for name, _ in shown(stage.kind, stage.results)):
        if any(fnmatchcase(name, pattern) for pattern in NOT_REPEATED):
            continue
        after, is_of_documents = [results.get(name) for results in measured], name.startswith(DOCUMENTS)
        cells = [_cell(one, "after") for one in after]
        if sum(cell is not None for cell in cells) > (0 if is_of_documents else 1):
            start = [_cell(after[0], "before")] if has_input else []
            rows.append(LedgerRow(name, is_of_documents, [*start, *cells]))
    rows.sort(key=lambda row: not row.is_of_documents)
    start_name = "input" if has_input and policies[0].input_ref else "random weights"
    return [*([start_name] if has_input else []), *(stage.name for stage in policies)], rows


def _cell(result: Facts | None, side: str) -> tuple[float, str] | None:
    if result is None or result[side] is None:
        return None
    return float(result[side]), verdict(result) if side == "after" else ""


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


VERDICTS = ("better", "worse", "tiny gain", "tiny loss", "changed", "tiny change", "no evidence", "not compared")


def summary(run: RunFacts) -> list[str]:
    """Return at most five lines: how it ended, what it reached, which stages helped, which did not, what was lost."""
    judged = {word: _judged(run, word) for word in VERDICTS}
    better, *others = (f"{word.capitalize()}: {', '.join(told)}" if told else "" for word, told in judged.items())
    lines = [_ending(run), _whole_chain(run), better, "; ".join(filter(None, others)), _forgotten(run)]
    return [one_line(line) for line in lines if line]


class Alarm(NamedTuple):
    """An alarm of a run."""

    stage: str
    step: Any
    name: str
    message: str
    anchor: str
    """By which the page's summary leads to it."""

    def __str__(self) -> str:
        return one_line(f"{self.stage} {self.name} (step {self.step})")


def alarms(run: RunFacts) -> dict[str, list[Alarm]]:
    """Return the alarms of each stage that raised any, in their order."""
    found: dict[str, list[Alarm]] = {}
    for place, stage in enumerate(run.stages, 1):
        for nth, alarm in enumerate(stage.info["alarms"], 1):
            name, message = str(alarm.get("name")), str(alarm.get("message"))
            found.setdefault(stage.name, []).append(
                Alarm(stage.name, alarm.get("step"), name, message, f"alarm-{place}-{nth}")
            )
    return found


def alarm_line(run: RunFacts) -> str:
    """Return the alarms as the console's summary names them; "" for none."""
    raised = [alarm for of_stage in alarms(run).values() for alarm in of_stage]
    return f"{count(len(raised), 'alarm')}: {', '.join(map(str, raised))}" if raised else ""


def count(number_of: int, noun: str) -> str:
    """Return so many of something, in words."""
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def _ending(run: RunFacts) -> str:
    passed = sum(stage.status == "passed" for stage in run.stages)
    took = sum(stage.info["duration_s"] or 0 for stage in run.stages)
    used = energy_j(run)
    words = f"{run.status.capitalize()}{f' after {duration(took)}' if took else ''}"
    words += f" and {used / 3600:.2f} Wh" if took and used else ""
    ended = (
        f"{words}: {passed} of {count(len(run.stages), 'stage')} passed"
        if run.stages
        else f"{words}: no stage has begun"
    )
    failed = next((stage for stage in run.stages if stage.status == "failed"), None)
    if failed is None:
        return f"{ended}."
    reason = str(failed.info.get("error") or "it left no reason").partition("\n")[0]
    return f"{ended}; {failed.name} failed: {shorten(reason, LONGEST_REASON, placeholder=' …')}"


def energy_j(run: RunFacts) -> float | None:
    """Return the energy that the stages took; None unless it is known of every stage that has begun."""
    used = [stage.info["energy_j"] for stage in run.stages if stage.info["duration_s"]]
    return None if None in used else sum(used, 0.0)


def _whole_chain(run: RunFacts) -> str:
    columns, rows = ledger(run)
    exact = [row for row in rows if row.name == "skills strict"]
    for row in exact or [row for row in rows if not row.is_of_documents] or rows:
        reached = [(column, cell[0]) for column, cell in zip(columns, row.cells, strict=True) if cell]
        if len(reached) > 1:
            return f"Over the chain: {row.name} " + ", ".join(f"{number(value)} {column}" for column, value in reached)
    return ""


def _judged(run: RunFacts, word: str) -> list[str]:
    stages = [(stage, result) for stage in run.stages if (result := headline(stage)) and verdict_on(stage) == word]
    return [f"{stage.name} ({name} {change(result)})" for stage, (name, result) in stages]


def _forgotten(run: RunFacts) -> str:
    worse = forgotten(run)
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return f"Forgotten: {'; '.join(worse[:3])}{more}" if worse else ""
