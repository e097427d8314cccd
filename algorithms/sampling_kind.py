"""What kinds share that sample completions and learn from their rewards."""

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import arguments
from algorithms.config import PREFLIGHT_COMPLETIONS, GRPOExtraConfig, TrainingConfig
from algorithms.trl_kind import EXACT, FORGETTING, TrlKind
from kinds import MicroBatch, Stage, Work
from utils import processes
from utils.errors import StageFailed

if TYPE_CHECKING:
    from data.sources import StageData

PROMPT_TOKENS = 256
"""What a prompt is taken for in forecasts, since TRL sets it no limit."""


class SamplingKind(TrlKind):
    """Samples completions of prompts in groups, and raises the likelihood of those with the higher reward."""

    layout = "prompts"
    samples = True
    leaves_out_long = True
    length_field = "max_completion_length"
    has_reference = True
    bar = {
        "reward": "reward", "reward_std": "std", "informative_groups": "informative",
        "completions/mean_length": "length",
    }  # fmt: skip
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "rewards")
    figures = (
        *EXACT,
        "skills flexible",
        "skills stop_rate",
        "rewards *",
        "sampled_rewards *",
        "reward_model prefers_after",
        *FORGETTING,
    )
    headlines = ("sampled_skills strict", "rewards *", "reward_model prefers_after")

    def trainer(self, stage: Stage, parts: dict[str, Any]) -> Any:
        """Return TRL's trainer, built from `parts`."""
        raise NotImplementedError(self.name)

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return the trainer, with its preflight.

        Raises:
            Refused: a reward needs a column that the data lacks, or a reward model cannot be used.
        """
        from algorithms import loading, rewards, supervision
        from algorithms.preflight import Preflight
        from records.stage_log import StageLog
        from utils.errors import Refused

        sources = [rewards.load(source) for source in stage.extra.rewards]
        functions = [function for function, _ in sources]
        if missing := rewards.missing_columns(functions, data.train):
            raise Refused("; ".join(missing))
        tokenizer = loading.tokenizer(stage.config, data.train)
        data = supervision.prompts_within_context(stage, data, tokenizer)
        parts = self.parts(stage, stage_dir, data, tokenizer)
        parts |= {
            "reward_funcs": list(map(rewards.checked, functions)),
            "reward_processing_classes": [tokenizer for _, tokenizer in sources],
        }
        trainer = self.trainer(stage, parts)
        if stage.extra.preflight_prompts:
            trainer.add_callback(Preflight(trainer, stage.extra.preflight_prompts, StageLog(stage_dir)))
        return trainer, data

    def judge(self, history: list[dict[str, Any]]) -> None:
        """Look at the rewards that were logged.

        Raises:
            StageFailed: no completion got a reward, or in no step did the rewards of any group differ, so no step could
                teach anything.
        """
        from algorithms.preflight import NO_REWARD

        steps = [line for line in history if "frac_reward_zero_std" in line]
        rewarded = [line["reward"] for line in steps if line["reward"] is not None]  # None: no completion has one
        if steps and not rewarded:
            raise StageFailed(NO_REWARD)
        if not steps or any(line["frac_reward_zero_std"] < 1 for line in steps):
            return
        mean = sum(rewarded) / len(rewarded)
        clipped = sum(line["completions/clipped_ratio"] for line in steps) / len(steps)
        raise StageFailed(
            f"the rewards never varied within a group: mean reward {mean:.3g}, and {clipped:.0%} of the completions"
            " were cut off at max_completion_length. Look at: whether the reward reads the right columns and the text;"
            " whether completions have room to end; whether the task is out of reach (lowest reward always: more SFT,"
            " or easier prompts) or already solved; num_generations, and temperature in trainer_args."
        )

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with vLLM, and with a generation batch, which must hold whole groups.

        Batches that `trainer_args` shapes otherwise are TRL's to judge.
        """
        found = []
        if config.trainer_args.get("use_vllm") and find_spec("vllm") is None:
            found.append(
                "trainer_args: use_vllm = True needs vLLM, which is not installed: pip install 'trl[vllm]' (Linux, an"
                " NVIDIA GPU), or leave use_vllm out, and transformers generates"
            )
        given = arguments.given(config, extra)
        if "generation_batch_size" in given or "steps_per_generation" in given:
            return found
        options = self.defaults() | given
        rows, passes = int(options["per_device_train_batch_size"]), int(options["gradient_accumulation_steps"])
        groups, several = options["num_generations"], processes.count()
        if (rows * passes * several) % groups:
            above = -(-rows * passes * several // groups) * groups
            by, these = (" × processes", f" × {several}") if several > 1 else ("", "")
            found.append(
                f"per_device_train_batch_size × gradient_accumulation_steps{by} = {rows} × {passes}{these} = "
                f"{rows * passes * several} completions "
                f"a step: must be a multiple of num_generations = {groups}, such as {above}"
            )
        return found

    def micro_batch(self, config: TrainingConfig) -> MicroBatch:
        """Return how a step, and a generation, is made up."""
        options = self.defaults() | arguments.given(config)
        rows, passes = options["per_device_train_batch_size"], options["gradient_accumulation_steps"]
        return MicroBatch(
            rows, passes, options["generation_batch_size"] or rows * (options["steps_per_generation"] or passes)
        )

    def with_micro_batch(
        self, config: TrainingConfig, batch: MicroBatch, extra: GRPOExtraConfig | None = None
    ) -> TrainingConfig:
        """Return the configuration with its step made up so; as many completions are sampled at once as before."""
        changed = super().with_micro_batch(config, batch, extra or GRPOExtraConfig())
        if "steps_per_generation" not in config.trainer_args:
            return changed
        passes = batch.generation_batch_size // batch.per_device_train_batch_size
        return replace(changed, trainer_args={**changed.trainer_args, "steps_per_generation": passes})

    def advice(self, config: TrainingConfig) -> str:
        """Return what would take less memory; the length of completions is no field of the configuration."""
        shorter, comma, others = super().advice(config).partition(", ")
        return shorter.partition(" (")[0] + comma + others

    def passes_of_an_epoch(self, args: Any, rows: int, processes: int) -> int:
        """Return how many micro-batches a process makes: of whole generations, each used `num_iterations` times."""
        prompts = args.generation_batch_size // args.num_generations
        return int(rows // prompts * args.num_iterations * args.steps_per_generation)

    def work(self, config: TrainingConfig, args: Any, extra: GRPOExtraConfig | None = None) -> Work:
        """Return what a step computes, its generations included."""
        assert extra is not None
        completions = extra.preflight_prompts * max(args.num_generations, PREFLIGHT_COMPLETIONS)
        return replace(
            super().work(config, args, extra),
            prompt_and_completion_tokens=(PROMPT_TOKENS, args.max_completion_length),
            reference=args.beta > 0,
            reference_passes=1 / args.num_iterations if args.beta else 0.0,
            generations_per_pass=(1 + extra.dynamic_sampling) / (args.steps_per_generation * args.num_iterations),
            generations_ahead=math.ceil(completions / args.generation_batch_size),
        )
