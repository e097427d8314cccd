"""What our stages cost beside TRL's own trainers: the same model, arguments, rows and steps, in pairs.

    python benchmarks/against_trl.py                                             the made world's rows
    python benchmarks/against_trl.py --model DIR --data FILE --preferences FILE    rows of your own
    python benchmarks/against_trl.py --kinds grpo --pairs 5

One process runs both sides in turn, the first of a pair alternating. `train` is the trainer's own `train()`; `stage` is
everything from the configuration to the saved model: on our side also the watch over gradients and the record. `peak`
is the resident memory's. Both start from the same weights, and the losses of their first steps must agree, where the
two learn from the same rows: GRPO's sides draw completions of their own, whose length is told.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from algorithms import GRPOExtraConfig
from benchmarks.pretraining_runs import table
from chain import recipe as recipes
from chain.recovery import train_within_memory
from data.sources import load_for
from kinds import Stage, named
from pretrain.loop import pretrain
from utils import runtime
from utils.limits import Clock
from utils.quiet import quiet_libraries

RECIPE = "scratch_tiny"
PRETRAIN_STEPS = 20
"""Of the model that both sides start from: the recipe's shape and tokenizer; what it knows does not matter here."""
STEPS = {"sft": 30, "reward": 30, "dpo": 15, "grpo": 6}
ALIKE, LEAST_APART = 3, 0.01
"""Steps whose losses must agree, and to what share: later ones part, since rounding grows with each step."""
LEAST_STEPS = 2
"""The first step only warms up: its learning rate is 0, and a stage that changed nothing fails."""


class Side(NamedTuple):
    """One training of a stage."""

    train_s: float
    stage_s: float
    peak_bytes: int
    losses: list[float]
    completion_tokens: float
    """Mean length of the completions that were sampled; 0 of a kind that samples none."""


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """Return the length of each completion: a reward that costs nothing, and varies whatever the model says."""
    return [float(len(completion[0]["content"])) for completion in completions]


def ours(stage: Stage, directory: Path) -> list[dict[str, Any]]:
    """Run the stage as the pipeline does."""
    train_within_memory(stage, directory, Clock())
    return [json.loads(line) for line in (directory / "training_metrics.jsonl").read_text().splitlines()]


def bare(stage: Stage, directory: Path) -> list[dict[str, Any]]:
    """Run TRL's trainer with what our stage would give it."""
    import trl

    kind: Any = stage.kind
    data = load_for(stage.config, kind.name)
    if kind.samples:
        trainer = trl.GRPOTrainer(reward_funcs=[lengths], **kind.parts(stage, directory, data))
    else:
        trainer, _ = kind.build(stage, directory, data)  # TRL's, which nothing of ours watches yet
    trainer.train()
    trainer.save_model(str(directory))
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


@contextmanager
def train_timer() -> Iterator[list[float]]:
    """Collect how long each call of a trainer's `train` takes, in seconds."""
    from transformers import Trainer

    original, taken = Trainer.train, []

    def timed(*given: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*given, **options)
        finally:
            taken.append(time.perf_counter() - started)

    Trainer.train = timed
    try:
        yield taken
    finally:
        Trainer.train = original


@contextmanager
def silent() -> Iterator[None]:
    """Let nothing be printed: a terminal's speed is not what is measured."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        quiet_libraries(None),
    ):
        yield


def described() -> str:
    """Return the machine's name."""
    facts = runtime.hardware()
    return f"{facts['cpu_cores']} cores of {facts['cpu']}, {facts['device']}"


def measure(side: Callable[[Stage, Path], list[dict[str, Any]]], stage: Stage) -> Side:
    """Run one side of a stage in a directory that is then removed."""
    runtime.free_memory()
    with tempfile.TemporaryDirectory() as name, silent(), train_timer() as taken:
        runtime.reset_peak_memory()
        started = time.perf_counter()
        history = [line for line in side(stage, Path(name)) if "loss" in line]
        stage_s = time.perf_counter() - started
        peak = runtime.peak_memory_bytes()
    tokens = [line["completions/mean_length"] for line in history if "completions/mean_length" in line]
    (train_s,) = taken
    return Side(train_s, stage_s, peak, [line["loss"] for line in history], statistics.fmean(tokens or [0.0]))


def compare(stage: Stage, pairs: int) -> list[str]:
    """Measure pairs of our run and TRL's, print each, and return the medians as the row of a table.

    Raises:
        SystemExit: the losses differ, so that they did not do the same work.
    """
    for side in (ours, bare):  # once each, not counted: imports, and the first use of everything
        measure(side, replace(stage, config=replace(stage.config, max_steps=LEAST_STEPS)))
    found: list[tuple[Side, Side]] = []
    for number in range(pairs):
        sides = {side: measure(side, stage) for side in ((ours, bare) if number % 2 == 0 else (bare, ours))}
        mine, its = sides[ours], sides[bare]
        found.append((mine, its))
        print(
            f"{stage.label} pair {number + 1}: train {mine.train_s:.2f} s ours, {its.train_s:.2f} s TRL; stage"
            f" {mine.stage_s:.2f} s ours, {its.stage_s:.2f} s TRL; peak {mine.peak_bytes / 2**30:.2f} GiB ours,"
            f" {its.peak_bytes / 2**30:.2f} GiB TRL",
            flush=True,
        )
    if stage.kind.samples:
        alike = " and ".join(
            f"{statistics.fmean(one.completion_tokens for one in side):.1f}" for side in zip(*found, strict=True)
        )
        same = f"completions of {alike} tokens"
    else:
        first = [pair for mine, its in found for pair in zip(mine.losses[:ALIKE], its.losses[:ALIKE], strict=True)]
        apart = max(abs(one - other) for one, other in first)
        sides_losses = ([loss for side in sides for loss in side.losses] for sides in zip(*found, strict=True))
        means = " and ".join(f"{statistics.fmean(losses):.3f}" for losses in sides_losses)
        same = f"losses at most {apart:.4f} apart in {ALIKE} steps, {means} in the mean of all"
        if apart > LEAST_APART * max(1.0, *(other for _, other in first)):
            raise SystemExit(f"{stage.label}: {same}: the two sides did not do the same work")
    ratios = {
        name: sorted(getattr(its, name) / getattr(mine, name) for mine, its in found)
        for name in ("train_s", "stage_s", "peak_bytes")
    }
    cells = [f"{statistics.median(values):.2f} ({values[0]:.2f} … {values[-1]:.2f})" for values in ratios.values()]
    return [stage.label, *cells, same]


def stages(base: Path, args: argparse.Namespace) -> Iterator[Stage]:
    """Yield the recipe's stages, all starting from one model, on its rows or the user's."""
    configs = recipes.load(RECIPE).configs
    for name in args.kinds:
        kind, config, steps = named(name), configs[name], args.steps or STEPS[name]
        own = {"pairs": args.preferences, "prompts": args.data, "conversations": args.data}[kind.layout]
        config = replace(config, model_name=args.model or str(base), max_steps=steps, logging_steps=1)
        if own:
            config = replace(config, dataset_name=own, max_samples=None, eval_samples=16)
            config = config if kind.samples else replace(config, max_length=1024)
        elif kind.samples:
            config = replace(config, max_samples=16 * steps)  # 128 completions a step, 8 of each prompt
        # The preflight samples before the first step, which the bare trainer does not: as long as two steps, once.
        extra = GRPOExtraConfig(
            reward_func=lengths, num_generations=8, max_completion_length=args.max_completion_length,
            preflight_prompts=0,
        )  # fmt: skip
        yield Stage(name, kind, config, extra if kind.samples else None)


def main() -> None:
    """Measure the kinds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(STEPS), help="(sft,reward,dpo,grpo)")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run (30, 30, 15 and 6)")
    parser.add_argument("--model", help="what is trained; else one of the recipe's shape, barely trained")
    parser.add_argument("--data", help="rows with answers, for SFT and GRPO (the made world's)")
    parser.add_argument("--preferences", help="pairs of answers, for the reward model and DPO (the made world's)")
    parser.add_argument("--max-completion-length", type=int, default=64, help="of GRPO, in tokens (64)")
    args = parser.parse_args()
    if unknown := set(args.kinds) - STEPS.keys():
        parser.error(f"--kinds: {', '.join(sorted(unknown))}: known are {', '.join(STEPS)}")
    if args.pairs < 1 or (args.steps or LEAST_STEPS) < LEAST_STEPS:
        parser.error(f"--pairs is at least 1, --steps at least {LEAST_STEPS}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        if args.model is None:
            config: Any = recipes.load(RECIPE).configs["pretrain"]
            few = {"max_steps": PRETRAIN_STEPS, "max_samples": 2000, "eval_samples": 16, "save_steps": 1000}
            with silent():
                pretrain(replace(config, **few), base)
        for stage in stages(base, args):
            rows.append(compare(stage, args.pairs))
    print(f"\nTRL / ours, medians of {args.pairs} pairs (least … most), on {described()}")
    print(table(["kind", "train", "stage", "peak memory", "the same work"], rows))


if __name__ == "__main__":
    main()
