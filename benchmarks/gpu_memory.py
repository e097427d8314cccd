"""GPU memory and speed of the recipes' stages under a cap of 6 GiB, beside TRL's trainers, and what each saving buys.

    python benchmarks/gpu_memory.py                             every stage of every recipe, three runs of each side
    python benchmarks/gpu_memory.py --recipes qwen2.5_0.5b --stages sft,dpo --pairs 1
    python benchmarks/gpu_memory.py --at-once 12                on a large card: all at once, but timed one by one
    python benchmarks/gpu_memory.py --device cpu --quick        a tiny model: tries the script, measures nothing

Models are random weights of the published shapes, rows are generated at the recipes' lengths: nothing is downloaded.
Sides, each run in a process of its own (gpu_memory_side.py), in turn: `ours`; `trl`, TRL's trainer with our arguments;
`trl_defaults`, TRL's own for all but rows, lengths and precision. Then ours with one saving after the other switched
off. Prints one JSON object a line, the machine first, and Markdown tables at the end; progress goes to stderr.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from algorithms import TrainingConfig
from benchmarks.gpu_memory_inputs import SHAPES
from benchmarks.gpu_memory_side import SIDES, Job
from benchmarks.pretraining_runs import Result, say, spread, table
from chain import recipe as recipes
from chain.forecast import Models, forecast
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


@dataclass
class Side:
    """A job in a process of its own."""

    what: str
    job: Job
    directory: Path

    def start(self) -> None:
        """Start it; what it prints goes to a file."""
        self.directory.mkdir()
        job, self.result_file, self.log = (self.directory / name for name in ("job.json", "result.json", "side.log"))
        job.write_text(json.dumps(asdict(self.job)), encoding="utf-8")
        script = str(ROOT / "benchmarks" / "gpu_memory_side.py")
        self.started = time.monotonic()
        with self.log.open("w", encoding="utf-8") as output:
            command = [sys.executable, script, str(job), str(self.result_file)]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def has_reached(self, point: Path) -> bool:
        """Tell whether it is at a point of the gate, or has ended."""
        return point.with_name(f"{point.name}-{self.process.pid}").exists() or self.process.poll() is not None

    def tell(self) -> Result:
        """Print what it has found so far as JSON, and return it; say on stderr what was done."""
        if self.process.poll():
            message = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
            print(f"{self.what} ended with {self.process.returncode}:\n{message}", file=sys.stderr, flush=True)
        print(f"{self.what}: {time.monotonic() - self.started:.0f} s", file=sys.stderr, flush=True)
        found: Result = {"failed": "no figures"}
        if self.result_file.exists():
            found = json.loads(self.result_file.read_text(encoding="utf-8"))
        job = {"recipe": self.job.recipe, "stage": self.job.kind, "side": self.job.side, "changed": self.job.changed}
        say({"run": self.what, **job, **found})
        return found


def run(jobs: Sequence[tuple[str, Job]], at_once: int) -> list[Result]:
    """Do jobs, each in a process of its own: one after another, or so many at once, timed one by one.

    Of those that run at once a line is printed when they are warm, with their memory, and another when they are timed.
    """
    found: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        for first in range(0, len(jobs), at_once):
            batch = Path(name) / str(first)
            batch.mkdir()
            gate = str(batch) if at_once > 1 else None
            sides = [
                Side(what, replace(job, gate=gate), batch / f"side-{number}")
                for number, (what, job) in enumerate(jobs[first : first + at_once])
            ]
            for side in sides:
                side.start()
            try:
                for point in ("warm", "timed") if gate else ("timed",):
                    told = told_at(batch / point, sides)
                found += [told[side.what] for side in sides]
            finally:
                for side in sides:
                    side.process.kill()
                    side.process.wait()
            shutil.rmtree(batch)
    return found


def told_at(point: Path, sides: Sequence[Side]) -> dict[str, Result]:
    """Return what each side has found when it is at a point of the gate, or has ended; then let them go on."""
    found: dict[str, Result] = {}
    while len(found) < len(sides):
        for side in sides:
            if side.what not in found and side.has_reached(point):
                found[side.what] = side.tell()
        time.sleep(0.1)
    point.touch()
    return found


def jobs_of(args: argparse.Namespace, recipe: str, kind: str, config: TrainingConfig) -> Iterator[tuple[str, Job]]:
    """Yield what is run of a stage: its sides `--pairs` times in the order A B C, C B A, A B C, …, then the savings."""

    def job_of(side: str, **changed: Any) -> Job:
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

    sides = ["ours"] if config.peft == "qlora" else list(SIDES)
    for number in range(args.pairs):
        for side in sides if number % 2 == 0 else sides[::-1]:
            yield f"{side}, {number + 1} of {args.pairs}", job_of(side)
    for name, changed in () if args.no_savings else savings(kind, config, args.device):
        yield f"without {name}", job_of("ours", **changed)


def middle(results: Sequence[Result], name: str) -> float | None:
    """Return the median of a figure over the runs; None if a run has none, as where memory did not suffice."""
    values = [result.get(name) for result in results]
    return None if None in values else statistics.median(value for value in values if value is not None)


def forecasts(recipe: str) -> dict[str, int]:
    """Return the forecast peak of each stage of a recipe, in bytes."""
    loaded = recipes.load(recipe)
    stages = stages_of(loaded.configs, loaded.grpo_extra)
    models = Models(stages, {}, SHAPES)
    return {stage.label: forecast(stage, models).peak_bytes for stage in stages}


def gib(size_bytes: float | None) -> str:
    """Return a size in GiB as the tables show it."""
    return "does not fit" if size_bytes is None else f"{size_bytes / GIB:.2f}"


def side_rows(recipe: str, kind: str, found: Mapping[str, list[Result]], expected: int | None) -> list[list[Any]]:
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
                gib(expected) if expected is not None and side == "ours" else "–",
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
    made.add_argument("--at-once", type=int, default=1, help="processes; timed one by one all the same (1)")
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
    if min(args.pairs, args.steps, args.warmup, args.at_once) < 1:
        command_line.error("--pairs, --steps, --warmup and --at-once are at least 1")
    machine = hardware()
    say({"command": sys.argv[1:], "machine": machine, "versions": versions(), "commit": git_commit()})
    jobs = [
        (f"{recipe}, {kind}, {what}", job)
        for recipe in args.recipes
        for kind, config in recipes.load(recipe).configs.items()
        if args.stages is None or kind in args.stages
        for what, job in jobs_of(args, recipe, kind, config)
    ]
    results = run(jobs, args.at_once)
    expected = {} if args.quick else {recipe: forecasts(recipe) for recipe in args.recipes}
    sides: list[list[Any]] = []
    bought: list[list[Any]] = []
    for recipe, kind in dict.fromkeys((job.recipe, job.kind) for _, job in jobs):
        found: dict[str, list[Result]] = {}
        without: dict[str, Result] = {}
        for (what, job), result in zip(jobs, results, strict=True):
            if (job.recipe, job.kind) == (recipe, kind):
                if job.changed:
                    without[what.rpartition("without ")[2]] = result
                else:
                    found.setdefault(job.side, []).append(result)
        sides += side_rows(recipe, kind, found, expected[recipe].get(kind) if expected else None)
        bought += saving_rows(recipe, kind, found["ours"], without)
    head = ["recipe", "stage", "side", "reserved, GiB", "device, GiB", "forecast, GiB", "s/step", "tokens/s"]
    print("\n" + table([*head, "ours / side (lowest … highest)"], sides))
    print("\n" + table(["recipe", "stage", "without", "reserved, GiB", "more, GiB", "speed / ours"], bought))
    cards = ", ".join(gpu["name"] for gpu in machine["gpus"]) or f"{machine['cpu']}, no GPU: tries the script"
    print(f"\nMeasured on {cards}{'' if args.device == 'cpu' else f', capped at {args.cap}'}.")


if __name__ == "__main__":
    main()
