"""The report's page: what the template is given, and how text from outside is made harmless in it."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from evaluation.gates import shown_decision
from evaluation.metrics import verdict
from evaluation.report.answers import chosen
from evaluation.report.chain import chain_picture, css_class
from evaluation.report.curves import curves
from evaluation.report.facts import Facts, RunFacts, StageFacts, items, mapping, number
from evaluation.report.story import change, energy_j, ledger, rows_of, summary, verdict_on
from evaluation.table import difference
from evaluation.table import number as shown_number
from utils.console import duration
from utils.text import safe

TEMPLATE = "page.html.jinja"


def page(run: RunFacts) -> str:
    """Return the report of a run as one page of XHTML, with nothing in it that is loaded from elsewhere."""
    return _environment().get_template(TEMPLATE).render(
        run=run,
        style=_style(),
        summary=summary(run),
        facts=_facts(run),
        pictures=[chain_picture(run, tall=tall) for tall in (False, True)] if run.stages else [],
        bought=[(stage, _bought(stage)) for stage in run.stages],
        costs=_costs(run),
        counted=" and ".join(sorted({name for stage in run.stages for name in energy_from(stage)})),
        curves=[(stage, curves(stage)) for stage in run.stages if stage.metrics],
        prompts=chosen(run),
        ledger=ledger(run),
        gates=[(stage, _gate(gate)) for stage, found in _of_stages(run, "gates") for gate in found],
        alarms=_of_stages(run, "alarms"),
        data=[(stage, mapping(stage.info.get("data"))) for stage in run.stages if stage.info.get("data")],
        repeat=repeat_command(run.record),
    )  # fmt: skip


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def harmless(value: Any) -> Any:
        """Return what stands in the page for a value, before it is escaped: nothing that steers, and no secret."""
        return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, finalize=harmless,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "css": css_class, "number": shown_number, "difference": difference, "change": change, "short": short_hash,
    }  # fmt: skip
    made.globals |= {"verdict_on": verdict_on, "moved": moved}
    return made


def _style() -> Any:
    from markupsafe import Markup

    return Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))


def _facts(run: RunFacts) -> dict[str, str]:
    """Return what stands below the title, and in full at the end: name and value, of what is recorded."""
    record, hardware = run.record, mapping(run.record.get("hardware"))
    machine = [str(hardware[name]) for name in ("cpu", "platform") if hardware.get(name)]
    machine += [str(gpu.get("name")) for gpu in items(hardware.get("gpus"))]
    versions = mapping(record.get("versions"))
    found = {
        "recipe": record.get("recipe") or ("run_pipeline" if record else None),
        "started": moment(record.get("started_at")),
        "finished": moment(record.get("finished_at")),
        "seed": record.get("seed") if record.get("seed") is not None else ("each stage its own" if record else None),
        "inputs from run": record.get("from_run"),
        "device": hardware.get("device"),
        "machine": ", ".join(machine),
        "commit": record.get("git_commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "accepted by --force": "; ".join(map(str, record.get("forced") or [])),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def moment(iso: Any) -> str:
    """Return an ISO time to the minute, with its offset; "" if it is none."""
    try:
        return f"{datetime.fromisoformat(str(iso)):%Y-%m-%d %H:%M %z}".strip()
    except ValueError:
        return ""


def _bought(stage: StageFacts) -> list[tuple[str, Facts, str]]:
    """Return the name, the result and the verdict of each row that is shown of a stage."""
    rows = []
    for name, result in rows_of(stage):
        both = None not in (result["before"], result["after"])
        missing = "too few" if both else "not compared"
        rows.append((name, result, verdict(result["metric"], result["ci95"]) or missing))
    return rows


def _costs(run: RunFacts) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of what each stage cost, with the total of what adds up."""
    fields = {"time": "duration_s", "steps": "steps", "tokens": "tokens", "peak memory": "peak_memory_bytes"}
    fields |= {"disk": "disk_bytes", "energy": "energy_j"}
    found = [stage.info | {"disk_bytes": stage.disk_bytes} for stage in run.stages]
    columns = {name: [number(one.get(field)) for one in found] for name, field in fields.items()}
    if not any(columns["energy"]):
        del columns["energy"]
    totals = {"peak memory": None, "energy": energy_j(run)}
    for name, values in columns.items():
        values.append(totals[name] if name in totals else sum(filter(None, values), 0.0))
    names = [*(stage.name for stage in run.stages), "all"]
    return list(columns), [
        [stage, *(_cost(name, values[place]) for name, values in columns.items())] for place, stage in enumerate(names)
    ]


def energy_from(stage: StageFacts) -> list[str]:
    """Return what a stage's energy was counted of."""
    names = stage.info.get("energy_from")
    return [str(name) for name in names] if isinstance(names, list) else []


def _cost(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    if column == "time":
        return duration(value)
    if column in ("peak memory", "disk"):
        return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"
    return f"{value / 3600:.2f} Wh" if column == "energy" else f"{value:,.0f}"


def _of_stages(run: RunFacts, name: str) -> list[tuple[StageFacts, list[Facts]]]:
    return [(stage, found) for stage in run.stages if (found := items(stage.info.get(name)))]


def _gate(gate: Facts) -> dict[str, str]:
    """Return the cells of a gate's row: what it asks for, what was measured, what that shows, whether it passed."""
    value = number(gate.get("value"))
    bounds = [number(bound) for bound in gate.get("bounds95") or []]
    is_of_difference = "input" in str(gate.get("rule"))
    sign = "+" if is_of_difference else ""
    before, after = (shown_number(number(gate.get(side))) for side in ("before", "after"))
    return {
        "measure": str(gate.get("metric")),
        "rule": f"{gate.get('rule')}{'' if value is None else f' {value:g}'}".replace("_", " "),
        "n": str(gate.get("n", "–")),
        "measured": f"{before} → {after}" if is_of_difference else after,
        "bounds": " … ".join(shown_number(bound, sign) for bound in bounds) or "–",
        "decision": str(gate.get("reason") or shown_decision(gate)),
        "outcome": "failed" if gate.get("failed") else "passed",
    }


def moved(before: float | None, after: float) -> str:
    """Return how a score stands to that of the stage before."""
    if before is None or before == after:
        return "same"
    return "better" if after > before else "worse"


def short_hash(value: Any) -> str:
    """Return as much of a hash as one compares by eye."""
    return str(value)[:16] if value else "–"


def repeat_command(record: Facts) -> str:
    """Return the command that repeats a run from its first step; "" where no recipe is named by which it could."""
    if not record.get("recipe"):
        return ""
    words = ["python", "run_all.py", "--recipe", str(record["recipe"])]
    for value in record.get("values") or []:
        words += ["--set", str(value)]
    if record.get("from_run"):
        stages = ",".join(str(entry.get("name")) for entry in items(record.get("stages")))
        words += ["--stages", stages, "--from", str(record["from_run"])]
    return shlex.join(words)
