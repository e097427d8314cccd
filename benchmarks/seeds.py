"""How good and how fast the embedded recipe is: whole runs over several seeds, and the same minutes spent on more SFT.

    python benchmarks/seeds.py --seeds 1,2,3,4,5 --out results.json

Each seed is one `run_all.py --test`. Its control starts from the same base and demonstrations, and trains SFT for as
long as SFT, reward model, DPO and GRPO took together. A run of the same code that has ended in `--runs-dir` is not run
again, so the same command goes on where it was interrupted. Prints a table of means with 95 % intervals over the seeds,
and one of what each stage was worth. A seed of which a stage failed counts as failed there, with what the stage was
measured to have come to: a gate that stops bad seeds would else make the mean better. Its times are left out.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chain.record import changes_of_run
from evaluation.choose import verifier_for
from evaluation.paired import t_quantile
from evaluation.report.facts import items, read_run
from evaluation.report.story import headline, verdict_on
from evaluation.table import number
from kinds import Stage, named
from recipes.scratch_tiny import configs
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.files import read_json

ROOT = Path(__file__).resolve().parent.parent
ENDED = ("passed", "failed")
"""A run with one of these is not run again. Of two runs of a seed, the one whose status stands first here is taken."""
SHOWN = (
    ("pretrain", "skills", "strict"),
    ("sft", "skills", "strict"),
    ("dpo", "skills", "strict"),
    ("grpo", "skills", "strict"),
    ("grpo", "skills", "strict/arithmetic"),
    ("grpo", "skills", "strict/counting"),
    ("grpo", "skills", "strict/calculator"),
    ("grpo", "skills", "flexible"),
    ("sft", "sampled_skills", "strict"),
    ("dpo", "sampled_skills", "strict"),
    ("grpo", "sampled_skills", "strict"),
    ("reward", "pairs", "accuracy"),
    ("dpo", "preferences", "accuracy"),
    ("dpo", "reward_model", "prefers_after"),
)
CONTROLLED = (("skills", "strict"), ("sampled_skills", "strict"))
"""What is shown of the control."""
SHARES = {" ".join(one) for one in SHOWN} | {f"control {task} {metric}" for task, metric in CONTROLLED}
"""Figures between 0 and 1, and so is what an interval says of them."""


def ended(runs_dir: Path, seed: int, values: list[str], from_run: str | None, any_code: bool) -> Path | None:
    """Return the newest run in `runs_dir` with these values that has passed, or else one that failed; None of neither.

    It has all stages of the recipe, or SFT alone where it starts from another run, and it was never taken up again: its
    times would hold the pause. Without `any_code`, it is of the code and the libraries of now.
    """
    asked = {"recipe": "scratch_tiny", "seed": seed, "from_run": from_run}
    found: dict[str, Path] = {}
    for file in sorted(runs_dir.glob("*/run_info.json"), reverse=True):
        record = read_json(file)
        others = [value for value in record.get("values", ()) if ".seed=" not in value]
        names = [stage["name"] for stage in record.get("stages", ())]
        is_it = others == values and all(record.get(name, "?") == asked[name] for name in asked)
        is_whole = names == (["sft"] if from_run else list(configs))
        is_over = record.get("status") in ENDED
        if is_it and is_whole and is_over and not was_resumed(file.parent) and (any_code or is_of_now(file.parent)):
            found.setdefault(record["status"], file.parent)
    return next((found[status] for status in ENDED if status in found), None)


def is_of_now(run_dir: Path) -> bool:
    """Return whether a resume of this run would have the code, the libraries and the processes that it began with."""
    record = record_of(run_dir)
    stages = stages_named(entry["name"] for entry in record["stages"])
    whole = bool(record.get("code") and record.get("versions"))
    return whole and not changes_of_run(RunInfo(run_dir), stages, verifier_for(stages), force=True)


def stages_named(labels: Iterable[str]) -> list[Stage]:
    """Return the stages of the recipe with these labels."""
    return [Stage(label, named(label), configs[label]) for label in labels]


def was_resumed(run_dir: Path) -> bool:
    """Return whether a stage of this run was taken up again, from a checkpoint or from its start."""
    if record_of(run_dir).get("forced"):
        return True
    kinds = [[kind for _, kind in events_of(run_dir / stage["output_dir"])] for stage in record_of(run_dir)["stages"]]
    return any("RESUME" in of_stage or of_stage.count("STAGE_START") > 1 for of_stage in kinds)


def events_of(stage_dir: Path) -> list[tuple[datetime, str]]:
    """Return the time and the kind of each event of a stage; none of one that has not begun."""
    file = StageLog(stage_dir).events_file
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(datetime.fromisoformat(at), kind) for at, kind, _ in (line.split(" | ", 2) for line in lines)]


def run(
    runs_dir: Path, seed: int, values: Sequence[str] = (), from_run: str | None = None, *, any_code: bool = False
) -> Path:
    """Return the run of `run_all.py --test` with these values: one that has ended already, or else a new one.

    With `from_run` it is of SFT alone, and starts from that run's base.
    """
    if (there := ended(runs_dir, seed, list(values), from_run, any_code)) is not None:
        print(f"seed {seed}: {there} has ended already and is not run again", file=sys.stderr, flush=True)
        return there
    before = set(runs_dir.glob("*/"))
    command = [sys.executable, str(ROOT / "run_all.py"), "--test", "--runs-dir", str(runs_dir), "--seed", str(seed)]
    command += [word for value in values for word in ("--set", value)]
    command += ["--stages", "sft", "--from", from_run] if from_run else []
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    made = set(runs_dir.glob("*/")) - before
    if len(made) > 1:
        raise SystemExit(
            f"{len(made)} new runs in {runs_dir}: another process writes there; name a directory of its own"
        )
    if not made or record_of(one := made.pop())["status"] not in ENDED:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}; the same benchmark goes on from here")
    return one


def record_of(run_dir: Path) -> dict[str, Any]:
    """Return a run's own record."""
    return dict(read_json(run_dir / "run_info.json"))


def stages_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what is recorded of each stage, passed or not, by the stage's name."""
    return {stage.name: stage.info for stage in read_run(run_dir).stages}


def verdicts(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return of each stage what it is judged by, before and after, the verdict, whether its gates passed, its alarms.

    `ci95` is the interval of the paired difference within the run. `gates_passed` is None where a stage has no gate.
    """
    found = {}
    for stage in read_run(run_dir).stages:
        name, result = headline(stage) or (None, {})
        gates = [not gate["failed"] for gate in items(stage.info.get("gates"))]
        before, after = result.get("before"), result.get("after")
        found[stage.name] = {
            "judged_by": name,
            "n": result.get("n"),
            "before": before,
            "after": after,
            "difference": None if before is None or after is None else after - before,
            "ci95": result.get("ci95"),
            "verdict": verdict_on(stage),
            "gates_passed": all(gates) if gates else None,
            "alarms": len(items(stage.info.get("alarms"))),
        }
    return found


def figure(info: dict[str, Any], task: str, metric: str) -> float | None:
    """Return what a stage's evaluation found of its model; None if it was not evaluated, or this not measured."""
    if not info.get("evaluation"):
        return None
    found = [row["after"] for row in info["evaluation"] if (row["task"], row["metric"]) == (task, metric)]
    if len(found) != 1:
        known = sorted({(row["task"], row["metric"]) for row in info["evaluation"]})
        raise SystemExit(f"{info['name']} has {len(found)} results for {task} {metric}; it has {known}")
    return None if found[0] is None else float(found[0])


def trained_s(run_dir: Path, info: dict[str, Any]) -> float:
    """Return how long a stage's training took, its loading and evaluation left out."""
    times = {kind: at for at, kind in events_of(run_dir / info["config"]["output_dir"])}
    return (times["TRAIN_END"] - times["TRAIN_START"]).total_seconds()


def wall_s(run_dir: Path) -> float:
    """Return how long a run took from its first line to its last; the start of Python comes on top."""
    record = record_of(run_dir)
    began, over = (datetime.fromisoformat(record[when]) for when in ("started_at", "finished_at"))
    return (over - began).total_seconds()


def measure(seed: int, runs_dir: Path, *, with_control: bool, any_code: bool) -> dict[str, Any]:
    """Run one seed, and its control if asked; return what was measured, and every verdict; times only if it passed."""
    run_dir = run(runs_dir, seed, any_code=any_code)
    record, stages = record_of(run_dir), stages_of(run_dir)
    passed = record["status"] == "passed"
    result: dict[str, Any] = {"seed": seed}
    if passed:
        result |= {"wall_s": wall_s(run_dir), "peak_bytes": max(info["peak_memory_bytes"] for info in stages.values())}
    for stage, task, metric in SHOWN:
        if (value := figure(stages.get(stage, {}), task, metric)) is not None:
            result[f"{stage} {task} {metric}"] = value
    if {"sft skills strict", "dpo skills strict"} <= result.keys():
        result["dpo change of skills strict"] = result["dpo skills strict"] - result["sft skills strict"]
    if passed:
        result |= {f"{name} seconds": info["duration_s"] for name, info in stages.items()}
    if passed and with_control:
        result |= control(seed, runs_dir, run_dir, any_code)
    return result | {"run": run_dir.name, "commit": record["git_commit"], "stages": verdicts(run_dir)}


def control(seed: int, runs_dir: Path, run_dir: Path, any_code: bool) -> dict[str, float]:
    """Train SFT again from the run's base, for as long as SFT, reward model, DPO and GRPO trained; return figures."""
    stages = stages_of(run_dir)
    seconds = {name: trained_s(run_dir, stages[name]) for name in ("sft", "reward", "dpo", "grpo")}
    steps = math.ceil(stages["sft"]["steps"] * sum(seconds.values()) / seconds["sft"])
    control_dir = run(runs_dir, seed, [f"sft.max_steps={steps}"], run_dir.name, any_code=any_code)
    info = stages_of(control_dir)["sft"]
    result: dict[str, float] = {}
    if record_of(control_dir)["status"] == "passed":
        result["control sft steps"] = info["steps"]
        result["control sft seconds of training"] = trained_s(control_dir, info)
    result["seconds of training of sft, reward, dpo, grpo"] = sum(seconds.values())
    for task, metric in CONTROLLED:
        if (value := figure(info, task, metric)) is not None:
            result[f"control {task} {metric}"] = value
    return result


def interval(values: Sequence[float], *, of_shares: bool = False) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over the seeds (Student's); None of fewer than two.

    A mean of shares lies from 0 to 1, which Student's distribution does not know: what lies beyond is cut off.
    """
    if len(values) < 2:
        return None
    mean, half = statistics.fmean(values), t_quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return (max(mean - half, 0.0), min(mean + half, 1.0)) if of_shares else (mean - half, mean + half)


def table(results: list[dict[str, Any]]) -> str:
    """Return mean, 95 % interval over the seeds, lowest and highest of every figure, as a Markdown table."""
    lines = ["| figure | mean | 95 % interval | lowest | highest |", "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(name for result in results for name in result):
        values = [result[name] for result in results if isinstance(result.get(name), int | float)]
        if not values or name == "seed":
            continue
        ends = interval(values, of_shares=name in SHARES)
        within = f"{ends[0]:.4g} … {ends[1]:.4g}" if ends else "–"
        label, mean = name + of_seeds(len(values), len(results)), statistics.fmean(values)
        lines.append(f"| {label} | {mean:.4g} | {within} | {min(values):.4g} | {max(values):.4g} |")
    return "\n".join(lines)


def of_seeds(n: int, seeds: int) -> str:
    """Return how many of the seeds a figure is of; nothing where it is of all."""
    return "" if n == seeds else f" ({n} of {seeds} seeds)"


def verdict_table(results: list[dict[str, Any]]) -> str:
    """Return what each stage was worth over the seeds, a row a stage, as a Markdown table.

    Before and after are means over the seeds that have both, and the interval is that of their mean difference; a
    verdict is of one run, by the interval of its own paired difference. A stage has passed its gates in a seed where it
    passed all of them.
    """
    headers = ("stage", "judged by", "before → after", "difference, 95 % over seeds", "verdicts", "gates passed")
    lines = [f"| {' | '.join((*headers, 'alarms'))} |", "| --- " * (len(headers) + 1) + "|"]
    for name in dict.fromkeys(name for result in results for name in result["stages"]):
        found = [result["stages"][name] for result in results if name in result["stages"]]
        judged = {one["judged_by"] for one in found if one["judged_by"]}
        changes = [one["difference"] for one in found if one["difference"] is not None]
        paired = [[one["before"], one["after"]] for one in found if one["difference"] is not None]
        measured = paired or [[one["after"]] for one in found if one["after"] is not None]
        means = " → ".join(number(statistics.fmean(side)) for side in zip(*measured, strict=True))
        said = number(statistics.fmean(changes), "+") if changes else "–"
        if ends := interval(changes):
            said += f" [{number(ends[0], '+')}, {number(ends[1], '+')}]"
        counted = Counter(one["verdict"] for one in found).most_common()
        gates = [one["gates_passed"] for one in found if one["gates_passed"] is not None]
        cells = [
            name,
            ", ".join(sorted(judged)) or "–",
            f"{means}{of_seeds(len(measured), len(results))}" if measured else "–",
            said,
            ", ".join(f"{verdict} {count} of {len(results)}" for verdict, count in counted),
            f"{sum(gates)} of {len(gates)}" if gates else "–",
            str(sum(one["alarms"] for one in found)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _seeds(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers with commas between, such as 1,2,3; given: {text}") from None


def main() -> None:
    """Measure all the seeds asked for, and write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    seeds = "comma-separated (1,2,3,4,5); each takes two runs, 6 minutes on 2 cores of an AMD EPYC"
    parser.add_argument("--seeds", type=_seeds, default="1,2,3,4,5", help=seeds)
    parser.add_argument("--out", type=Path, default=Path("seeds.json"), help="where the figures go (seeds.json)")
    parser.add_argument("--runs-dir", type=Path, default=Path("seeds-runs"), help="where runs go (seeds-runs)")
    parser.add_argument("--no-control", action="store_true", help="leave out the runs of more SFT")
    parser.add_argument("--any-code", action="store_true", help="take ended runs of other code or libraries, too")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in args.seeds:
        print(f"seed {seed}: the runs go to {args.runs_dir}", file=sys.stderr, flush=True)
        results.append(measure(seed, args.runs_dir, with_control=not args.no_control, any_code=args.any_code))
        args.out.write_text(json.dumps(results, indent=2))
        print(json.dumps(results[-1]), flush=True)
    print(table(results), verdict_table(results), sep="\n\n")
    if len(commits := {str(result["commit"]) for result in results}) > 1:
        print(f"\nThe runs are of {len(commits)} commits: {', '.join(sorted(commits))}")


if __name__ == "__main__":
    main()
