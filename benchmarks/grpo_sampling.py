"""What dynamic sampling is worth: GRPO beside TRL's as it is, for the same time, from a checkpoint of a finished run.

    python benchmarks/grpo_sampling.py --run runs/20260131_101500_k3x9 --seconds 60 --pairs 3

Both sides are the recipe's GRPO stage at a constant learning rate, with the run's reward model, and stop after equal
seconds of training; pairs alternate which comes first, and each pair has a seed of its own. `trl` is the same trainer
with `dynamic_sampling=0`, whose weights a test finds equal to those of TRL's own. Compared are the informative groups
that were trained on in a second, and exact match on held-out problems, of the likeliest answers and of sampled ones.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from algorithms import GRPOExtraConfig, TrainingConfig
from algorithms.grpo import GRPO
from algorithms.preflight import run as preflight
from algorithms.preflight import told
from benchmarks.against_trl import silent
from chain import recipe as recipes
from data import made
from data.sources import load_for
from kinds import Stage
from recipes.arithmetic import made_strict
from utils.files import read_json

RECIPE = "scratch_tiny"


class Side(NamedTuple):
    """What one training of a pair gave."""

    seconds: float
    steps: int
    groups: float
    """Informative groups that were trained on."""
    sampled: float
    """Completions that were sampled, those that were discarded included."""
    greedy: float
    """Exact match on held-out problems."""
    drawn: float
    """The same, of sampled answers."""

    @property
    def groups_a_second(self) -> float:
        """Informative groups that were trained on, by the second."""
        return self.groups / self.seconds


def stage(run: Path, start: str, seed: int, num_generations: int | None) -> tuple[TrainingConfig, GRPOExtraConfig]:
    """Return the recipe's GRPO stage, from the output that the run's stage `start` wrote."""
    loaded = recipes.load(RECIPE)
    where = {entry["name"]: run / entry["output_dir"] for entry in read_json(run / "run_info.json")["stages"]}
    config: Any = replace(
        loaded.configs["grpo"], model_name=str(where[start]), seed=seed, max_samples=8192, max_steps=10_000,
        lr_scheduler_type="constant_with_warmup",
    )  # fmt: skip
    assert loaded.grpo_extra is not None
    extra = replace(loaded.grpo_extra, reward_func=["made_strict", str(where["reward"])])
    return config, extra if num_generations is None else replace(extra, num_generations=num_generations)


def trainer_of(config: TrainingConfig, extra: GRPOExtraConfig, directory: Path) -> Any:
    """Return the trainer of a stage, as the pipeline builds it."""
    trainer, _ = GRPO.build(Stage(GRPO.name, GRPO, config, extra), directory, load_for(config, GRPO.name))
    return trainer


def train(config: TrainingConfig, extra: GRPOExtraConfig, seconds: float) -> tuple[Any, Side]:
    """Train until the time is over; return the trainer, and what it did, yet without its exact match."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log = True
            if time.monotonic() - self.began >= seconds:
                control.should_training_stop, control.should_save = True, False

    with tempfile.TemporaryDirectory() as name:
        trainer = trainer_of(config, extra, Path(name))
        trainer.args.save_strategy = "no"
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        taken = time.monotonic() - clock.began
    lines = [line for line in trainer.state.log_history if "informative_groups" in line]
    size = trainer.args.generation_batch_size
    groups = sum(line["informative_groups"] for line in lines) * size / extra.num_generations
    sampled = sum(line.get("completions_sampled", size) for line in lines)
    return trainer, Side(taken, trainer.state.global_step, groups, sampled, 0.0, 0.0)


def exact_match(trainer: Any, problems: int, max_new_tokens: int) -> tuple[float, float]:
    """Return the share of held-out problems that a model answers as taught: likeliest answers, and sampled ones."""
    from batching.complete import complete
    from data.chat import encode

    rows = made.rows("prompts", "eval", problems, 0)
    tokenizer, model = trainer.processing_class, trainer.model.eval()
    prompts = [encode(tokenizer, row["prompt"], row.get("tools")) for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("skill", "answer")}
    found = []
    for sampled in (False, True):
        said = complete(model, tokenizer, prompts, max_new_tokens, sampled=sampled)
        found.append(statistics.fmean(made_strict([one.text for one in said], **columns)))
    return found[0], found[1]


def measure(config: TrainingConfig, extra: GRPOExtraConfig, seconds: float, problems: int) -> Side:
    """Train one side and measure what it became."""
    with silent():
        trainer, side = train(config, extra, seconds)
        greedy, drawn = exact_match(trainer, problems, extra.max_completion_length)
    return side._replace(greedy=greedy, drawn=drawn)


def main() -> None:
    """Measure pairs, and print each and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="directory of a run of the embedded recipe")
    parser.add_argument("--start", choices=("sft", "dpo"), default="sft", help="stage whose output is trained (sft)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, of each side (60)")
    parser.add_argument("--pairs", type=int, default=3, help="trainings of each side (3)")
    parser.add_argument("--budget", type=int, default=2, help="dynamic_sampling of the one side (2)")
    parser.add_argument("--num-generations", type=int, help="completions of a group (the recipe's)")
    parser.add_argument("--quick", action="store_true", help="two steps and few problems: tries the script")
    args = parser.parse_args()
    if args.pairs < 1 or args.budget < 1 or args.seconds <= 0:
        parser.error("--pairs and --budget are at least 1, --seconds above 0")
    if not (args.run / "run_info.json").is_file():
        parser.error(f"--run {args.run}: it holds no run_info.json")
    seconds, pairs, problems = (0.5, 1, 12) if args.quick else (args.seconds, args.pairs, 600)
    config, extra = stage(args.run, args.start, 0, args.num_generations)
    budgets = {"trl": 0, "dynamic": args.budget}
    with silent(), tempfile.TemporaryDirectory() as name:
        trainer = trainer_of(config, extra, Path(name))
        expected = preflight(trainer, 8 if args.quick else 64)
        before = exact_match(trainer, problems, extra.max_completion_length)
    print("\n".join(told(expected)), flush=True)
    print(f"before: exact match {before[0]:.3f}, sampled {before[1]:.3f}", flush=True)
    found: dict[str, list[Side]] = {name: [] for name in budgets}
    for pair in range(pairs):
        for name in sorted(budgets, reverse=pair % 2 == 0):
            config, extra = stage(args.run, args.start, 101 + pair, args.num_generations)
            side = measure(config, replace(extra, dynamic_sampling=budgets[name]), seconds, problems)
            found[name].append(side)
            print(
                f"pair {pair + 1} {name}: {side.steps} steps in {side.seconds:.1f} s, {side.sampled:.0f} completions,"
                f" {side.groups:.0f} informative groups, {side.groups_a_second:.2f} a second;"
                f" exact match {side.greedy:.3f}, sampled {side.drawn:.3f}",
                flush=True,
            )
    for field in ("groups_a_second", "greedy", "drawn"):
        values = {name: [getattr(side, field) for side in sides] for name, sides in found.items()}
        differences = [ours - its for ours, its in zip(values["dynamic"], values["trl"], strict=True)]
        print(
            f"{field}: median trl {statistics.median(values['trl']):.3f}, dynamic"
            f" {statistics.median(values['dynamic']):.3f}, difference {statistics.median(differences):+.3f}"
            f" (of {pairs}: {min(differences):+.3f} … {max(differences):+.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
