"""How soon a newcomer has an answer: help, refusals, the demo's plan and first step, beside the import of TRL alone.

    python benchmarks/first_minutes.py
    python benchmarks/first_minutes.py --plan RUN_DIR        the plan beside a finished run of the demo on this machine

Each command runs five times as a process of its own, in turn with the others; medians are told. Nothing else should run
beside it.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pretraining_runs import table
from utils.files import read_json
from utils.runtime import hardware

ROOT = Path(__file__).resolve().parent.parent
TIMES = 5
FIRST_STEP = "the demo's first step, with an empty cache"
LONGEST_S = 300.0
ALONE = ("the import of TRL's trainers", ["-c", "from trl import DPOTrainer, GRPOTrainer, SFTTrainer"])
COMMANDS = {
    "--help": ["--help"],
    "a misspelt flag": ["--tset"],
    "an unknown stage": ["--test", "--stages", "grpp"],
    "a stage without its input": ["--test", "--stages", "grpo"],
    "a misspelt field": ["--test", "--set", "sft.max_stepz=3"],
    "a value out of range": ["--test", "--set", "sft.learning_rate=-1"],
    "data that are not there": ["--test", "--set", "sft.dataset_name=nowhere.jsonl"],
    "the demo's plan": ["--test", "--plan"],
}


def seconds(argv: list[str], directory: Path) -> float:
    """Return what a command of Python takes; it must end with 0 or with a refusal."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *argv], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise SystemExit(f"{argv} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - began


def first_step(directory: Path, argv: Sequence[str] = ("--test", "--set", "pretrain.logging_steps=1")) -> float:
    """Return the seconds until a run has logged its first step; it is then ended.

    Raises:
        SystemExit: the run ended before, or has not come so far in `LONGEST_S`.
    """
    began = time.perf_counter()
    runs, ours = directory / "runs", os.environ | {"SIXGIG_CACHE": str(directory / "cache")}
    command = [sys.executable, str(ROOT / "run_all.py"), *argv, "--runs-dir", str(runs)]
    with subprocess.Popen(command, cwd=directory, env=ours, stdout=subprocess.DEVNULL) as run:
        while not any(file.stat().st_size for file in runs.glob("*/*/training_metrics.jsonl")):
            if run.poll() is not None or time.perf_counter() - began > LONGEST_S:
                run.kill()
                raise SystemExit(f"{' '.join(command)} logged no step")
            time.sleep(0.02)
        taken = time.perf_counter() - began
        run.kill()
    return taken


def answers() -> list[list[str]]:
    """Return the table's rows: each command's median, and its ratio to the import."""
    commands = {ALONE[0]: ALONE[1]} | {name: [str(ROOT / "run_all.py"), *argv] for name, argv in COMMANDS.items()}
    taken: dict[str, list[float]] = {name: [] for name in [*commands, FIRST_STEP]}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(TIMES):
            for name, argv in commands.items():
                taken[name].append(seconds(argv, Path(directory)))
            with tempfile.TemporaryDirectory() as own:
                taken[FIRST_STEP].append(first_step(Path(own)))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return [[name, f"{median:.2f}", f"{median / medians[ALONE[0]]:.2f}"] for name, median in medians.items()]


def planned(run_dir: Path) -> list[list[str]]:
    """Return each stage's seconds in a finished run of the demo, and those that the plan tells now."""
    from utils.console import duration

    done = subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "--test", "--plan"], capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Time of "))
    rows = []
    for file in sorted(run_dir.glob("*/stage_info.json"), key=lambda file: file.stat().st_mtime):
        record = read_json(file)
        told = re.search(rf"\b{record['name']} ([^,;]+)", line)
        rows.append([record["name"], duration(record["duration_s"]), told[1] if told else "?"])
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="how soon a newcomer has an answer")
    parser.add_argument("--plan", type=Path, metavar="RUN_DIR", help="a finished run of the demo on this machine")
    asked = parser.parse_args()
    machine = hardware()
    print(f"{machine['cpu']}, {machine['cpu_cores']} cores, {machine['device']}")
    if asked.plan:
        print(table(["stage", "took", "planned"], planned(asked.plan)))
    else:
        print(table(["command", "seconds", "of TRL's import"], answers()))


if __name__ == "__main__":
    main()
