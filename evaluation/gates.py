"""Gates: whether what a stage changed, or reached, lets its model pass. Decided by intervals, never by two numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.before_and_after import answered_by
from evaluation.metrics import HIGHER_IS_BETTER
from evaluation.paired import mean_score, paired_difference, with_noise
from evaluation.table import number
from evaluation.task import Task
from utils.errors import did_you_mean
from utils.text import one_line

Gate = Mapping[str, Any]
"""`{"metric": "skills strict", RULE: VALUE}`, and `noise` where it is known what other seeds change."""

ABSOLUTE, RELATIVE = ("at_least", "at_most"), ("not_below_input", "better_than_input")
RULES = (*ABSOLUTE, *RELATIVE)
"""`at_least`, `at_most`: a bound of the score. `not_below_input`: how much of the input's score may be lost.
`better_than_input`: True."""

SHARES = ("strict", "flexible", "accuracy", "stop_rate", "prefers_after")
"""Metrics that are shares of the examples, from 0 to 1."""

LEVEL = 0.90
"""Of the two-sided interval, so that each of its ends is a one-sided bound at 95 %."""


def measurable(tasks: Sequence[Task], judged: bool) -> list[str]:
    """Return the metrics of a stage that a gate may name, as "task metric"; `NAME/*` stands for groups of the rows.

    `judged` says whether a reward model judges the stage's answers.
    """
    names = [f"{task.name} {metric}" for task in tasks for metric in task.all_metrics()]
    return names + (["reward_model reward", "reward_model prefers_after"] if judged and answered_by(tasks) else [])


def problems(gates: Sequence[Gate], metrics: Sequence[str] | None, compared: Sequence[str] | None) -> Iterator[str]:
    """Yield what is wrong with a stage's gates. `metrics` are what can be measured of it, None if that is not known.

    `compared` are those of them that are measured of the stage's input too.
    """
    for place, gate in enumerate(gates, start=1):
        said = f"gate {place}"
        rules = [name for name in gate if name in RULES]
        for key in gate:
            if key not in ("metric", "noise", *RULES):
                near = did_you_mean(str(key), ("metric", "noise", *RULES))
                yield f"{said}: there is no {key!r}{near or '.'} Known: metric, {', '.join(RULES)}, noise"
        metric = gate.get("metric")
        known = metrics is not None and any(_names(pattern, str(metric)) for pattern in metrics)
        if not isinstance(metric, str):
            yield f'{said}: metric = {metric!r}: must be "TASK METRIC", such as "skills strict"'
        elif metrics is not None and not known:
            near = did_you_mean(metric, metrics)
            yield f"{said}: the stage has no result {metric!r}{near or '.'} It has: {', '.join(metrics)}"
        if len(rules) != 1:
            given = " and ".join(rules) or "none"
            yield f"{said}: must have one of {', '.join(RULES)}; it has {given}"
        for rule in rules:
            if rule in RELATIVE and known and not any(_names(one, str(metric)) for one in compared or ()):
                yield f"{said}: {rule}: the stage starts from random weights, which are asked nothing: take at_least"
            elif problem := _value_problem(rule, gate[rule], metric if isinstance(metric, str) else ""):
                yield f"{said}: {problem}"
        if "noise" in gate and not (_is_number(gate["noise"]) and gate["noise"] >= 0):
            yield f"{said}: noise = {gate['noise']!r}: must be a standard deviation over seeds, 0 or more"


def _names(pattern: str, metric: str) -> bool:
    return metric.startswith(pattern[:-1]) if pattern.endswith("/*") else metric == pattern


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value_problem(rule: str, value: Any, metric: str) -> str | None:
    base = metric.partition(" ")[2].partition("/")[0]
    higher = _higher_is_better(metric)
    if rule == "better_than_input" and value is not True:
        return f"{rule} = {value!r}: must be True; leave the gate out where it need not be better"
    if rule in RELATIVE and higher is None:
        return f"{rule}: neither more nor less of {metric!r} is better by itself: take at_least or at_most"
    if rule in ABSOLUTE and higher is (rule == "at_most"):
        other = "at_most" if rule == "at_least" else "at_least"
        return f"{rule}: of {metric!r} {'more' if higher else 'less'} is better: take {other}"
    if rule != "better_than_input" and not _is_number(value):
        return f"{rule} = {value!r}: must be a number"
    if rule == "not_below_input" and value < 0:
        return f"{rule} = {value!r}: must be the loss that is tolerated, 0 or more"
    if rule != "better_than_input" and base in SHARES and not 0 <= value <= 1:
        return f"{rule} = {value!r}: must be from 0 to 1, since {metric!r} is a share of the examples"
    return None


def _higher_is_better(metric: str) -> bool | None:
    return HIGHER_IS_BETTER.get(metric.partition(" ")[2].partition("/")[0], True)


def decide(gates: Sequence[Gate], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each gate `{metric, rule, value, n, before, after, ci95, bounds95, noise, decision, failed}`.

    `results` are those of `evaluate_stage`, with `scores`. What is compared with the rule's limit is the difference of
    output and input on the same examples, or the output's own score. `ci95` is its two-sided interval, as in the
    table; `bounds95` are its one-sided bounds, each at 95 % and widened to the `noise`, which decide: `better` than the
    limit, `worse`, or `no evidence`, when the limit lies between them. A gate fails where the result is worse;
    `better_than_input` also without evidence; and every gate whose metric was `not measured`.
    """
    by_name = {f"{result['task']} {result['metric']}": result for result in results}
    return [_decided(gate, by_name.get(gate["metric"])) for gate in gates]


def _decided(gate: Gate, result: Mapping[str, Any] | None) -> dict[str, Any]:
    (rule,) = (name for name in gate if name in RULES)
    value, metric = gate[rule], gate["metric"]
    record = {"metric": metric, "rule": rule, "value": value, "n": 0, "before": None, "after": None, "ci95": None}
    record |= {"bounds95": None, "noise": None, "decision": "not measured", "failed": True}
    if result is None:
        return record | {"reason": "the evaluation has no such result"}
    record |= {name: result[name] for name in ("n", "before", "after")}
    before, after = result.get("scores", ([], []))
    if not after or (rule in RELATIVE and not before):
        return record | {"reason": result.get("reason") or "there is nothing to compare"}
    lower_is_better = rule == "at_most" or _higher_is_better(metric) is False
    rerun, seeds = result.get("noise", 0.0), float(gate.get("noise", 0.0))
    if rule in ABSOLUTE:
        two_sided, bounds, limit = mean_score(after), mean_score(after, LEVEL), value
    else:
        two_sided, bounds = paired_difference(before, after), paired_difference(before, after, LEVEL)
        limit = 0.0 if rule == "better_than_input" else value if lower_is_better else -value
    bounds = with_noise(bounds, LEVEL, 0.0 if rule in ABSOLUTE else rerun, seeds)
    worse, better = bounds.high < limit, bounds.low > limit  # neither where there are too few examples for bounds
    if lower_is_better:
        worse, better = better, worse
    decision = "better" if better else "worse" if worse else "no evidence"
    failed = not better if rule == "better_than_input" else worse
    known = math.isfinite(bounds.low)
    return record | {
        "ci95": [two_sided.low, two_sided.high] if known else None,
        "bounds95": [bounds.low, bounds.high] if known else None,
        "noise": math.hypot(rerun, seeds),
        "decision": decision,
        "failed": failed,
    }


def shown_decision(record: Mapping[str, Any]) -> str:
    """Return a decision in the words of its rule: what is better than the limit need not be better than the input."""
    words = {
        "not_below_input": ("kept", "lost"),
        "at_least": ("reached", "missed"),
        "at_most": ("kept", "exceeded"),
    }
    better, worse = words.get(str(record.get("rule")), ("better", "worse"))
    decision = str(record.get("decision"))
    return {"better": better, "worse": worse}.get(decision, decision)


def line(record: Mapping[str, Any]) -> str:
    """Return one gate's decision as a line of text."""
    value = "" if record["rule"] == "better_than_input" else f" {record['value']:g}"
    said = f"{record['metric']}, {record['rule']}{value}: {shown_decision(record)}, "
    said += "FAILED" if record["failed"] else "passed"
    if record.get("reason"):
        return one_line(f"{said} ({record['reason']})")
    relative = record["rule"] in RELATIVE
    scores = (
        f"{number(record.get('before'))} → {number(record.get('after'))}" if relative else number(record.get("after"))
    )
    if record.get("bounds95") is None:
        return one_line(f"{said} ({scores} of {record.get('n')}, too few for an interval)")
    low, high = (number(bound, "+" if relative else "") for bound in record["bounds95"])
    return one_line(f"{said} ({scores} of {record.get('n')}; {'difference' if relative else 'score'} {low} to {high})")
