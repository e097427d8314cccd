"""The report's page: what the template is given, and how text from outside is made harmless in it."""

import shlex
from pathlib import Path
from typing import Any

from evaluation.costs import COSTS, OTHER, phase_shares, shown_cost, tokens_a_second
from evaluation.gates import line
from evaluation.markup import templates
from evaluation.measures import counted, meaning, shown
from evaluation.metrics import LEAST_SHARE, least_effect, verdict
from evaluation.report import story
from evaluation.report.curves import curves
from evaluation.report.facts import Facts, RunFacts, StageFacts
from evaluation.report.facts import number as number_of
from evaluation.report.prompts import chosen
from evaluation.table import difference, number
from utils.runtime import now

TEMPLATE = "page.html.jinja"
RELOAD_S = 30
"""After how many seconds the page of a run that is going on loads itself again."""
LONGEST = 1500
"""Letters of a prompt or an answer that are shown."""


def page(run: RunFacts) -> str:
    """Return the report of a run as one page of XHTML, with nothing in it that is loaded from elsewhere."""
    environment = templates()
    filters = (css, number, difference, shown_cost, short, cut, gate, moved, result_verdict, start, progress, model)
    environment.filters |= {function.__name__: function for function in filters} | {"change": story.change}
    energy_from = sorted({name for stage in run.stages for name in stage.info["energy_from"]})
    spent = {stage.name: phase_shares(stage.info) for stage in run.stages}
    phases = list(dict.fromkeys(name for shares in spent.values() for name in shares if name != OTHER))
    costs = [name for name, (field, _) in COSTS.items() if any(stage.info[field] for stage in run.stages)]
    rates = {stage.name: tokens_a_second(stage.info) for stage in run.stages}
    return environment.get_template(TEMPLATE).render(
        run=run, record=run.record, story=story, shown=shown, curves=curves, energy_from=energy_from, costs=costs,
        spent=spent, phases=[*phases, OTHER] if phases else [], rates=rates,
        prompts=chosen(run), repeat=repeat_command(run.record), counted=counted, legend=legend(run),
        recipe=Path(str(run.record.get("recipe") or "run")).stem, written=now(), reload_s=RELOAD_S,
    )  # fmt: skip


def legend(run: RunFacts) -> list[tuple[str, str]]:
    """Return each measure that is shown, groups of it left out, with what it says and which change of it is tiny."""
    found = {name: result for stage in run.stages for name, result in shown(stage.kind, stage.results)}
    said = []
    for name, result in found.items():
        task, metric = str(result["task"]), str(result["metric"])
        if f"{task} {metric.partition('/')[0]}" in found.keys() - {name}:
            continue
        least = least_effect(metric, 1.0)
        tiny = f"{least:g}" if least == least_effect(metric, 2.0) else f"{LEAST_SHARE:.0%} of the value before"
        said.append((name, f"{meaning(task, metric)}; tiny below {tiny}"))
    return said


def start(stage: StageFacts, run: RunFacts) -> str:
    """Return what a stage started from, in words."""
    if stage.input_ref is None:
        return "random weights" if stage.kind.starts_from_nothing else "what is not recorded"
    name = model(stage.input_ref)
    is_elsewhere = name != stage.input_ref and name not in {one.name for one in run.stages}
    return f"{name} of run {run.record.get('from_run')}" if is_elsewhere else name


def progress(stage: StageFacts) -> str:
    """Return how far a stage is that is going on."""
    if not stage.metrics:
        return "no step is logged yet"
    steps = number_of(stage.info["config"].get("max_steps"))
    return f"at step {stage.metrics[-1]['step']}" + (f" of {steps:.0f}" if steps and steps > 0 else "")


def model(reference: str) -> str:
    """Return a model as one speaks of it: the output of a stage by the stage's label."""
    return reference.removeprefix('StageOutput("').removesuffix('")')


def repeat_command(record: Facts) -> str:
    """Return the command that repeats a run from its first step; "" where no recipe is named by which it could."""
    if not record.get("recipe"):
        return ""
    words = ["python", "run_all.py", "--recipe", str(record["recipe"])]
    for value in record.get("values") or []:
        words += ["--set", str(value)]
    if record.get("from_run"):
        labels = ",".join(str(entry["name"]) for entry in record["stages"])
        words += ["--stages", labels, "--from", str(record["from_run"])]
    return shlex.join(words)


def css(verdict: str) -> str:
    """Return the class that colours a verdict or a status."""
    return "is-" + "".join(letter if letter.isalpha() else "-" for letter in verdict.lower())


def result_verdict(result: Facts) -> str:
    """Return what the interval of a result says, or why there is none."""
    missing = "not compared" if None in (result["before"], result["after"]) else "too few"
    return verdict(result) or missing


def moved(after: float, before: float | None) -> str:
    """Return how a score stands to that of the stage before."""
    if before is None or before == after:
        return "same"
    return "better" if after > before else "worse"


def short(value: Any) -> str:
    """Return as much of a hash as one compares by eye."""
    return str(value)[:16] if value else "–"


def cut(text: Any) -> str:
    """Return at most so much of a text as is shown."""
    return str(text) if len(str(text)) <= LONGEST else f"{str(text)[:LONGEST]}…"


def gate(record: Facts) -> str:
    """Return a gate's decision as a line, as the console shows it."""
    return line(record)
