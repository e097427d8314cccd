"""What our stages cost beside the bare TRL trainer: SFT and GRPO, same arguments, data and steps, in pairs.

    python benchmarks/overhead.py --pairs 5 --sft-steps 30 --grpo-steps 6

One process runs both sides in turn, the first of a pair alternating. `train` is the trainer's own `train()`; `stage`
is everything from the configuration to the saved model: on our side also the held-out rows, the inspection of examples,
the watch over gradients, the progress bar and the record. Both sides must end with the same weights.
"""

import argparse
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
from algorithms import GRPOExtraConfig, arguments
from chain import recipe as recipes
from chain.recovery import train_within_memory
from data import made
from kinds import Stage, named
from pretrain.loop import pretrain
from utils.files import weights_sha256
from utils.limits import Clock
from utils.quiet import quiet_libraries

RECIPE = "scratch_tiny"
PRETRAIN_STEPS = 20
"""Of the model that both sides start from: the recipe's shape and tokenizer; what it knows does not matter here."""
LEAST_STEPS = 2
"""The first step only warms up: its learning rate is 0, and a stage that changed nothing fails."""


class Times(NamedTuple):
    """Seconds of one run of a stage."""

    train_s: float
    stage_s: float


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """Return the length of each completion: a reward that costs nothing, and varies whatever the model says."""
    return [float(len(completion[0]["content"])) for completion in completions]


def ours(stage: Stage, directory: Path) -> None:
    """Run the stage as the pipeline does."""
    train_within_memory(stage, directory, Clock())


def bare(stage: Stage, directory: Path) -> None:
    """Run TRL's trainer as its documentation shows, with the arguments that our stage gives it."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind: Any = stage.kind
    config = stage.config
    options = arguments.resolve(config, stage.extra, directory) | {"report_to": ["tensorboard"]}
    if not kind.samples:
        options["assistant_only_loss"] = True
    rows = made.rows(config.dataset_name.removeprefix("made:"), "train", config.max_samples, config.seed)
    model = AutoModelForCausalLM.from_pretrained(
        str(config.model_name), dtype="float32", attn_implementation=config.attn_implementation
    )
    given: dict[str, Any] = {
        "model": model,
        "args": kind.args_class()(**options),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": AutoTokenizer.from_pretrained(str(config.model_name)),
    }
    trainer = trl.GRPOTrainer(reward_funcs=[lengths], **given) if kind.samples else trl.SFTTrainer(**given)
    trainer.train()
    trainer.save_model(str(directory))


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


def measure(side: Callable[[Stage, Path], None], stage: Stage) -> tuple[Times, str]:
    """Run one side of a stage in a directory that is then removed; return its times and the hash of its weights."""
    with tempfile.TemporaryDirectory() as name, silent(), train_timer() as taken:
        started = time.perf_counter()
        side(stage, Path(name))
        stage_s = time.perf_counter() - started
        (train_s,) = taken
        return Times(train_s, stage_s), weights_sha256(Path(name))


def compare(stage: Stage, pairs: int) -> None:
    """Measure pairs of our run and the bare one, and print each and the median ratios."""
    for side in (ours, bare):  # once each, not counted: imports, and the first use of everything
        measure(side, replace(stage, config=replace(stage.config, max_steps=LEAST_STEPS)))
    ratios: list[Times] = []
    for number in range(pairs):
        found = {side: measure(side, stage) for side in ((ours, bare) if number % 2 == 0 else (bare, ours))}
        (mine, my_weights), (its, its_weights) = found[ours], found[bare]
        if my_weights != its_weights:
            raise SystemExit(
                f"{stage.label}: the two sides ended with different weights: they did not do the same work"
            )
        ratios.append(Times(mine.train_s / its.train_s, mine.stage_s / its.stage_s))
        print(
            f"{stage.label} pair {number + 1}: train {mine.train_s:.2f} s ours, {its.train_s:.2f} s bare;"
            f" stage {mine.stage_s:.2f} s ours, {its.stage_s:.2f} s bare",
            flush=True,
        )
    for name in Times._fields:
        values = sorted(getattr(ratio, name) for ratio in ratios)
        print(
            f"{stage.label} {name.removesuffix('_s')}: median ratio ours / bare {statistics.median(values):.3f}"
            f" (of {pairs}: {values[0]:.3f} … {values[-1]:.3f})",
            flush=True,
        )


def stages(base: Path, sft_steps: int, grpo_steps: int) -> list[Stage]:
    """Return the recipe's SFT and GRPO stages, both starting from `base`."""
    configs = recipes.load(RECIPE).configs
    prompts = 16 * grpo_steps  # 128 completions a step, 8 of each prompt
    return [
        Stage("sft", named("sft"), replace(configs["sft"], model_name=str(base), max_steps=sft_steps)),
        Stage(
            "grpo",
            named("grpo"),
            replace(configs["grpo"], model_name=str(base), max_steps=grpo_steps, max_samples=prompts),
            # The preflight samples before the first step, which the bare trainer does not: as long as two steps, once.
            GRPOExtraConfig(reward_func=lengths, num_generations=8, max_completion_length=64, preflight_prompts=0),
        ),
    ]


def main() -> None:
    """Measure both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--sft-steps", type=int, default=30, help="optimizer steps of SFT (30)")
    parser.add_argument("--grpo-steps", type=int, default=6, help="optimizer steps of GRPO (6)")
    args = parser.parse_args()
    if args.pairs < 1 or min(args.sft_steps, args.grpo_steps) < LEAST_STEPS:
        parser.error(f"--pairs is at least 1, --sft-steps and --grpo-steps are at least {LEAST_STEPS}")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        config: Any = recipes.load(RECIPE).configs["pretrain"]
        few = {"max_steps": PRETRAIN_STEPS, "max_samples": 2000, "eval_samples": 16, "save_steps": 1000}
        with silent():
            pretrain(replace(config, **few), base)
        for stage in stages(base, args.sft_steps, args.grpo_steps):
            compare(stage, args.pairs)


if __name__ == "__main__":
    main()
