"""GPU memory and speed of the recipes' stages under a cap of 6 GiB, beside TRL's trainers, and what each saving buys.

    python benchmarks/gpu_memory.py                             every stage of every recipe, three runs of each side
    python benchmarks/gpu_memory.py --recipes qwen2.5_0.5b --stages sft,dpo --pairs 1
    python benchmarks/gpu_memory.py --device cpu --quick        a tiny model: tries the script, measures nothing

Models are random weights of the published shapes, rows are generated at the recipes' lengths: nothing is downloaded.
Sides, each run in a process of its own (gpu_memory_side.py), in turn: `ours`; `trl`, TRL's trainer with our arguments;
`trl_defaults`, TRL's own for all but rows, lengths and precision. Then ours with one saving after the other switched
off. Prints one JSON object a line, the machine first, and Markdown tables at the end; progress goes to stderr.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
import recipes
from algorithms import TrainingConfig
from benchmarks.gpu_memory_inputs import SHAPES
from benchmarks.gpu_memory_side import SIDES, Job
from benchmarks.pretraining_runs import Result, say, spread, table
from chain.stages import stages_of
from utils.limits import size_bytes_of
from utils.runtime import device, git_commit, hardware, versions

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
RECIPES = ("qwen2.5_0.5b", "smollm2_135m", "qwen2.5_1.5b_lora", "smollm3_3b_qlora")
CAP = "6GiB"


def savings(kind: str, config: TrainingConfig, on: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each saving that a stage makes, and the values that switch it off."""
    if config.dtype == "bfloat16" and config.peft is None:
        yield "bfloat16 weights", {"dtype": "float32"}
    if config.optim == "adamw_torch_8bit":
        yield "8-bit optimizer states", {"optim": "adamw_torch_fused"}
    if config.peft == "qlora":
        yield "4-bit weights", {"peft": "lora"}
    if config.peft is not None:
        yield "an adapter", {"peft": None, "peft_args": {}}
    if config.gradient_checkpointing is not False:
        yield "activations computed again", {"gradient_checkpointing": False}
    if on == "cuda" and config.use_liger_kernel is not False:
        yield "Liger's layers", {"use_liger_kernel": False}
    if config.packing:
        yield "packing", {"packing": False}
    if config.trainer_args.get("precompute_ref_log_probs"):
        yield "the reference computed ahead", {"precompute_ref_log_probs": False}
    if kind == "grpo" and config.beta == 0:
        yield "no reference model", {"beta": 0.04}


def run(what: str, job: Job) -> Result:
    """Do a job in a process of its own; print its result as JSON, and say on stderr what was done."""
    with tempfile.TemporaryDirectory() as name:
        job_file, result_file, log = (Path(name) / file for file in ("job.json", "result.json", "side.log"))
        job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_memory_side.py"), str(job_file), str(result_file)]
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{what} ended with {done.returncode}:\n{log.read_text(encoding='utf-8')[-4000:]}")
        result: Result = json.loads(result_file.read_text(encoding="utf-8"))
    say({"run": what, "recipe": job.recipe, "stage": job.kind, "side": job.side, "changed": job.changed, **result})
    print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return result


def of_sides(args: argparse.Namespace, recipe: str, kind: str, sides: Sequence[str]) -> dict[str, list[Result]]:
    """Return what each side took, in `--pairs` runs in the order A B C, C B A, A B C, …"""
    found: dict[str, list[Result]] = {side: [] for side in sides}
    for number in range(args.pairs):
        for side in sides if number % 2 == 0 else sides[::-1]:
            job = job_of(args, recipe, kind, side)
            found[side].append(run(f"{recipe}, {kind}, {side}, {number + 1} of {args.pairs}", job))
    return found


def job_of(args: argparse.Namespace, recipe: str, kind: str, side: str, **changed: Any) -> Job:
    """Return a job with what all jobs of this call share."""
    return Job(
        recipe=recipe,
        kind=kind,
        side=side,
        changed=changed,
        steps=args.steps,
        warmup=args.warmup,
        cap_bytes=size_bytes_of(args.cap) if args.device == "cuda" else None,
        cpu=args.device == "cpu",
        quick=args.quick,
    )


def middle(results: Sequence[Result], name: str) -> float | None:
    """Return the median of a figure over the runs; None if a run has none, as where memory did not suffice."""
    values = [result.get(name) for result in results]
    return None if None in values else statistics.median(value for value in values if value is not None)


def forecasts(recipe: str) -> dict[str, int]:
    """Return the forecast peak of each stage of a recipe, in bytes; none where there is no forecast yet."""
    try:
        forecast = importlib.import_module("chain.forecast")
    except ModuleNotFoundError:
        return {}
    loaded = recipes.load(recipe)
    stages = stages_of(loaded.configs, loaded.grpo_extra)
    models = forecast.Models(stages, {}, SHAPES)
    return {stage.kind: forecast.forecast(stage, models).peak_bytes for stage in stages}


def gib(size_bytes: float | None) -> str:
    """Return a size in GiB as the tables show it."""
    return "does not fit" if size_bytes is None else f"{size_bytes / GIB:.2f}"


def side_rows(recipe: str, kind: str, found: Mapping[str, list[Result]], forecast: int | None) -> list[list[Any]]:
    """Return the lines of a stage in the table of the sides."""
    rows: list[list[Any]] = []
    mine = [result.get("tokens_per_s") for result in found["ours"]]
    for side, results in found.items():
        theirs = [result.get("tokens_per_s") for result in results]
        fits = None not in mine + theirs
        ratios = [ours / its for ours, its in zip(mine, theirs, strict=True)] if fits else []  # type: ignore[operator]
        used, reserved = middle(results, "used_bytes"), middle(results, "reserved_bytes")
        rows.append(
            [
                recipe,
                kind,
                side,
                gib(reserved),
                "–" if used is None else gib(used),
                gib(forecast) if forecast is not None and side == "ours" else "–",
                "–" if reserved is None else middle(results, "step_s"),
                "–" if reserved is None else middle(results, "tokens_per_s"),
                f"{statistics.median(ratios):.3f} ({spread(ratios)})" if ratios and side != "ours" else "–",
            ]
        )
    return rows


def saving_rows(recipe: str, kind: str, base: Sequence[Result], without: Mapping[str, Result]) -> Iterator[list[Any]]:
    """Yield the lines of a stage in the table of the savings."""
    reserved, speed = middle(base, "reserved_bytes"), middle(base, "tokens_per_s")
    for name, result in without.items():
        its, its_speed = result.get("reserved_bytes"), result.get("tokens_per_s")
        fits = reserved is not None and its is not None
        bought = f"{(its - reserved) / GIB:+.2f}" if fits else "–"  # type: ignore[operator]
        yield [recipe, kind, name, gib(its), bought, its_speed / speed if fits else "–"]  # type: ignore[operator]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")  # noqa: E731
    made.add_argument("--recipes", type=words, default=list(RECIPES), help=f"to be measured ({','.join(RECIPES)})")
    made.add_argument("--stages", type=words, default=None, help="of these recipes (all)")
    made.add_argument("--pairs", type=int, default=3, help="runs of each side (3)")
    made.add_argument("--steps", type=int, default=6, help="timed optimizer steps of a run (6)")
    made.add_argument("--warmup", type=int, default=2, help="steps before them, not timed (2)")
    made.add_argument("--cap", default=CAP, help=f"of the card, context and other programs included ({CAP})")
    made.add_argument("--device", choices=("cuda", "cpu"), default=None, help="where to run (cuda where there is one)")
    made.add_argument("--no-savings", action="store_true", help="leave out what each saving buys")
    made.add_argument("--quick", action="store_true", help="a tiny model, short rows, one run: measures nothing")
    return made


def main() -> None:
    """Measure what the command line asks for."""
    command_line = parser()
    args = command_line.parse_args()
    args.device = args.device or device()
    if args.quick:
        args.pairs, args.steps, args.warmup = 1, 2, 1
    elif args.device != "cuda":
        command_line.error("there is no CUDA GPU here; --device cpu --quick tries the script, and measures nothing")
    if min(args.pairs, args.steps, args.warmup) < 1:
        command_line.error("--pairs, --steps and --warmup are at least 1")
    machine = hardware()
    say({"command": sys.argv[1:], "machine": machine, "versions": versions(), "commit": git_commit()})
    sides: list[list[Any]] = []
    bought: list[list[Any]] = []
    for recipe in args.recipes:
        forecast = {} if args.quick else forecasts(recipe)
        for kind, config in recipes.load(recipe).configs.items():
            if args.stages is not None and kind not in args.stages:
                continue
            quantised = config.peft == "qlora"
            found = of_sides(args, recipe, kind, ["ours"] if quantised else list(SIDES))
            sides += side_rows(recipe, kind, found, forecast.get(kind))
            off = {} if args.no_savings else dict(savings(kind, config, args.device))
            without = {
                name: run(f"{recipe}, {kind}, without {name}", job_of(args, recipe, kind, "ours", **changed))
                for name, changed in off.items()
            }
            bought += saving_rows(recipe, kind, found["ours"], without)
    head = ["recipe", "stage", "side", "reserved, GiB", "device, GiB", "forecast, GiB", "s/step", "tokens/s"]
    print("\n" + table([*head, "ours / side (lowest … highest)"], sides))
    print("\n" + table(["recipe", "stage", "without", "reserved, GiB", "more, GiB", "speed / ours"], bought))
    cards = ", ".join(gpu["name"] for gpu in machine["gpus"]) or f"{machine['cpu']}, no GPU: tries the script"
    print(f"\nMeasured on {cards}{'' if args.device == 'cpu' else f', capped at {args.cap}'}.")


if __name__ == "__main__":
    main()
