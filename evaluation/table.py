"""The result table of a run: what each stage changed, and whether that is more than noise."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from evaluation.measures import Result, counted, shown
from evaluation.metrics import verdict
from kinds import recorded
from utils.text import safe

COLOURS = {"better": "green", "worse": "red", "no evidence": "dim"}
TINY = "tiny: sure, but smaller than the least change that matters (docs/evidence.md)"


def result_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of stages in run order, each with `name`, `kind` and `evaluation`, as stage_info.json has them.

    Shows the results that matter for the kind of stage; fits 100 columns. Below it stand the reasons for missing
    figures, and what is counted where that are not the held-out rows of the stage's own data.
    """
    table = Table(
        title="Held-out results", title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for header in ("stage", "measure"):
        table.add_column(header, no_wrap=True)
    for header in ("n", "before → after", "difference, 95 %"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    reasons: dict[str, None] = {}
    for stage in stages:
        name = str(stage["name"])
        rows = list(shown(recorded(stage), stage.get("evaluation") or []))
        for index, (label, result) in enumerate(rows):
            measured = None not in (result["before"], result["after"])
            mark = verdict(result) or ("too few" if measured else "")
            if result.get("reason"):
                mark = mark or "see below"
                reasons[f"{name}, {label}: {result['reason']}"] = None
            if mark.startswith("tiny"):
                reasons[TINY] = None
            change = f"{number(result['before'])} → {number(result['after'])}"
            style = COLOURS.get(mark, "none")
            table.add_row(
                escape(safe(name)) if index == 0 else "", escape(safe(label)), str(result["n"]), change,
                escape(difference(result)), f"[{style}]{mark}[/]", end_section=index == len(rows) - 1,
            )  # fmt: skip
    reasons |= dict.fromkeys(counted(stages))
    table.caption = "\n".join(escape(safe(reason)) for reason in reasons) or None
    return table


def number(value: float | None, sign: str = "") -> str:
    """Return a value to three places, fewer where it is large, zero without a sign of its own; a dash for none."""
    if value is None:
        return "–"
    return f"{value:{sign}z.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"


def difference(result: Result) -> str:
    """Return `after - before` with its interval, or a dash."""
    before, after, interval = result["before"], result["after"], result["ci95"]
    if before is None or after is None or interval is None:
        return "–"
    change, low, high = (number(value, "+") for value in (after - before, *interval))
    return f"{change} [{low}, {high}]"
