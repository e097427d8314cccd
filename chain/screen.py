"""What a run looks like on the console: its header, a panel for each stage, the results, and how to go on."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

import kinds
from chain import stage_gates as gates
from chain.stages import shown
from kinds import Stage
from records.run_directory import passed_on
from utils.command_line import command, relative
from utils.console import panel

SHOWN_VERSIONS = ("python", "torch", "trl", "transformers", "datasets")


def header(record: Mapping[str, Any], run_dir: Path) -> RenderableType:
    """Return the panel that opens a run."""
    from evaluation.report import REPORT_FILE  # not above: `data` may be hidden by a file beside a script

    hardware = record["hardware"]
    memory = f"{hardware['memory_bytes'] / 2**30:.1f} GiB memory"
    machine = [f"{hardware['cpu']}, {hardware['cpu_cores']} cores, {memory}"]
    machine += [f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.1f} GiB" for gpu in hardware["gpus"]]
    known = record["versions"]
    rows = {
        "recipe": record["recipe"] or "run_pipeline",
        "stages": " → ".join(entry["name"] for entry in record["stages"]),
        "seed": "each stage its own" if record["seed"] is None else str(record["seed"]),
        "files": relative(run_dir),
        "report": f"{relative(run_dir / REPORT_FILE)}, which loads itself again while the run goes on",
        "device": hardware["device"],
        "machine": "\n".join(machine),
        "versions": ", ".join(f"{name} {known[name]}" for name in SHOWN_VERSIONS if name in known),
    }
    return panel(f"run {record['run_id']}", rows, "blue")


def stage(stage: Stage, data: Mapping[str, Any]) -> RenderableType:
    """Return the panel that opens a stage: what the recipe sets, where it starts, its data."""
    config = stage.config
    defaults = {field.name: field.default for field in fields(config)}
    apart = {"model_name", "output_dir", "dataset_name", "stage", "gates", "on_fail"}
    changed = [
        f"{name}={value!r}"
        for name in defaults
        if name not in apart and (value := getattr(config, name)) != defaults[name] and value != {}
    ]
    rows = {
        "starts from": shown(stage.model),
        "data": f"{data['name']}: {data['train_rows']} rows to train on, {data['eval_rows']} held out"
        + (f", {data['dropped']} dropped" if data["dropped"] else ""),
        "settings": ", ".join(changed) or "the defaults",
    }
    if stage.extra is not None:
        weights = stage.extra.reward_weights or [1.0] * len(stage.extra.rewards)
        named = zip(stage.extra.rewards, weights, strict=True)
        rows["rewards"] = ", ".join(f"{shown(one)} × {weight:g}" for one, weight in named)
        rows["samples"] = f"{stage.extra.num_generations} a prompt, at most {stage.extra.max_completion_length} tokens"
    if config.gates:
        rows["gates"] = gates.described(config)
    return panel(stage.label, rows)


def results(record: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Return what closes a run that passed: the table of its measurements, its gates, and the time each stage took."""
    from evaluation import result_table
    from evaluation.gates import line

    decided = [f"{one['name']} gate: {line(gate)}" for one in stages for gate in one.get("gates") or ()]
    took = ", ".join(f"{one['name']} {one['duration_s']:.1f} s" for one in record["stages"] if one.get("duration_s"))
    return [result_table(stages), *map(escape, decided), Group("", f"run {record['run_id']} passed: {took}")]


def report_lines(summary: Sequence[str], run_dir: Path) -> str:
    """Return the summary of a run's report and where the report lies."""
    from evaluation.report import REPORT_FILE

    return "\n".join(["", *summary, f"Report: {relative(run_dir / REPORT_FILE)}"])


def model_line(record: Mapping[str, Any], run_dir: Path) -> str:
    """Return where the run's final model lies, and how to talk to it unless a reward model is all there is."""
    stages = record["stages"]
    last = next((entry for entry in reversed(stages) if not kinds.recorded(entry).scores), stages[-1])
    model = relative(passed_on(last, run_dir))
    line = f"The model of stage {last['name']}: {model}"
    if last.get("passes_on"):
        line = f"The model that stage {last['name']} passes on, its input, since a gate failed: {model}"
    if kinds.recorded(last).scores:
        return line
    return f"{line}\nTalk to it: {command(Path(__file__).resolve().parent.parent / 'chat.py', model)}"
