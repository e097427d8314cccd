"""How good and how fast the embedded recipe is: whole runs over several seeds, and the same minutes spent on more SFT.

    python benchmarks/seeds.py --seeds 1,2,3,4,5 --out results.json

Each seed is one `run_all.py --test`. Its control starts from the same base and demonstrations, and trains SFT for as
long as SFT, reward model, DPO and GRPO took together. Prints a table of means with 95 % intervals over the seeds.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation.paired import t_quantile

ROOT = Path(__file__).resolve().parent.parent
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


def run(runs_dir: Path, *arguments: str) -> tuple[Path, float, int]:
    """Run `run_all.py --test` with these arguments.

    Returns the run directory that it made, its wall time in seconds and its peak resident memory in bytes.
    """
    before = set(runs_dir.glob("*/"))
    command = [sys.executable, str(ROOT / "run_all.py"), "--test", "--runs-dir", str(runs_dir), *arguments]
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    made = set(runs_dir.glob("*/")) - before
    if len(made) != 1:
        raise SystemExit(
            f"{len(made)} new runs in {runs_dir}: another process writes there; name a directory of its own"
        )
    return made.pop(), time.monotonic() - started, peak


def stages_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return each stage's stage_info.json by the stage's name."""
    infos = [json.loads(path.read_text()) for path in run_dir.glob("*/stage_info.json")]
    return {info["name"]: info for info in infos}


def figure(info: dict[str, Any], task: str, metric: str, when: str = "after") -> float:
    """Return one figure of a stage's evaluation."""
    found = [row[when] for row in info["evaluation"] if (row["task"], row["metric"]) == (task, metric)]
    if len(found) != 1:
        known = sorted({(row["task"], row["metric"]) for row in info["evaluation"]})
        raise SystemExit(f"{info['name']} has {len(found)} results for {task} {metric}; it has {known}")
    return float(found[0])


def trained_s(info: dict[str, Any]) -> float:
    """Return how long a stage's training took, its loading and evaluation left out."""
    events = (Path(info["output"]["path"]) / "training_events.log").read_text().splitlines()
    times = {kind: datetime.fromisoformat(at) for at, kind, _ in (line.split(" | ", 2) for line in events)}
    return (times["TRAIN_END"] - times["TRAIN_START"]).total_seconds()


def measure(seed: int, runs_dir: Path, with_control: bool) -> dict[str, Any]:
    """Run one seed, and its control if asked; return the figures."""
    run_dir, wall_s, peak = run(runs_dir, "--seed", str(seed))
    stages = stages_of(run_dir)
    result: dict[str, Any] = {"seed": seed, "wall_s": wall_s, "peak_bytes": peak}
    result |= {f"{stage} {task} {metric}": figure(stages[stage], task, metric) for stage, task, metric in SHOWN}
    result["dpo change of skills strict"] = result["dpo skills strict"] - result["sft skills strict"]
    result |= {f"{name} seconds": info["duration_s"] for name, info in stages.items()}
    return result | (control(seed, runs_dir, run_dir) if with_control else {})


def control(seed: int, runs_dir: Path, run_dir: Path) -> dict[str, float]:
    """Train SFT again from the run's base, for as long as SFT, reward model, DPO and GRPO trained; return figures."""
    stages = stages_of(run_dir)
    seconds = {name: trained_s(stages[name]) for name in ("sft", "reward", "dpo", "grpo")}
    steps = math.ceil(stages["sft"]["steps"] * sum(seconds.values()) / seconds["sft"])
    only_sft = ("--stages", "sft", "--from", run_dir.name, "--set", f"sft.max_steps={steps}")
    control_dir, _, _ = run(runs_dir, "--seed", str(seed), *only_sft)
    info = stages_of(control_dir)["sft"]
    return {
        "control sft steps": info["steps"],
        "control sft seconds of training": trained_s(info),
        "seconds of training of sft, reward, dpo, grpo": sum(seconds.values()),
        "control skills strict": figure(info, "skills", "strict"),
        "control sampled_skills strict": figure(info, "sampled_skills", "strict"),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return mean, 95 % interval over the seeds, lowest and highest of every figure, as a Markdown table."""
    lines = ["| figure | mean | 95 % interval | lowest | highest |", "| --- | --- | --- | --- | --- |"]
    for name in results[0]:
        values = [float(result[name]) for result in results]
        mean, interval = statistics.fmean(values), "–"
        if len(values) > 1:
            half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
            interval = f"{mean - half:.4g} … {mean + half:.4g}"
        if name != "seed":
            lines.append(f"| {name} | {mean:.4g} | {interval} | {min(values):.4g} | {max(values):.4g} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all the seeds asked for, and write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma-separated (1,2,3,4,5)")
    parser.add_argument("--out", type=Path, default=Path("seeds.json"), help="where the figures go (seeds.json)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the runs go (runs)")
    parser.add_argument("--no-control", action="store_true", help="leave out the runs of more SFT")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in (int(text) for text in args.seeds.split(",")):
        results.append(measure(seed, args.runs_dir, not args.no_control))
        args.out.write_text(json.dumps(results, indent=2))
        print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
