"""Group relative policy optimisation: sample answers, reward them, prefer the better of a group (Shao et al., 2024)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.recovery import survives_out_of_memory
from kinds import Kind, Stage

if TYPE_CHECKING:
    from algorithms.dynamic_sampling import DynamicSamplingTrainer
    from data.sources import StageData

__all__ = ["GRPOExtraConfig", "train"]


@survives_out_of_memory("grpo")
def train(config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig | None = None) -> Path:
    """Train on prompts by the rewards of `extra`; return the checkpoint's directory.

    Raises:
        Refused: a reward needs a column that the data lacks, or a reward model cannot be used.
        StageFailed: no group of completions ever differed in reward, or training did not work.
    """
    from algorithms import training
    from algorithms.preflight import Preflight
    from records.stage_log import StageLog

    extra = extra or GRPOExtraConfig()
    data = training.rows(config, "grpo")
    trainer = trainer_for(config, stage_dir, extra, data)
    if extra.preflight_prompts:
        trainer.add_callback(Preflight(trainer, extra.preflight_prompts, StageLog(stage_dir)))
    shown = {
        "reward": "reward", "reward_std": "std", "informative_groups": "informative",
        "completions/mean_length": "length",
    }  # fmt: skip
    return training.fit(trainer, config, stage_dir, data, shown, judge_rewards)


def trainer_for(
    config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig, data: "StageData"
) -> "DynamicSamplingTrainer":
    """Return the stage's trainer.

    Raises:
        Refused: a reward needs a column that the data lacks, or a model cannot be used.
    """
    from algorithms import liger, loading, rewards, training
    from algorithms.dynamic_sampling import DynamicSamplingTrainer
    from utils.errors import Refused

    sources = [rewards.load(source) for source in extra.rewards]
    functions = [function for function, _ in sources]
    missing = rewards.missing_columns(functions, data.train.column_names)
    if missing:
        raise Refused("; ".join(missing))
    settings = training.trl_config("grpo", config, stage_dir, extra)
    if config.peft is None:  # an adapter's reference is the same model with the adapter off, or an earlier adapter on
        settings.model_init_kwargs = loading.options(config)  # of the reference, which TRL loads by the policy's name
    return DynamicSamplingTrainer(
        model=liger.with_liger(loading.language_model(config), config, stage_dir),
        reward_funcs=functions,
        reward_processing_classes=[tokenizer for _, tokenizer in sources],
        args=settings,
        train_dataset=data.train,
        eval_dataset=training.eval_rows(settings, data),
        processing_class=loading.tokenizer(config, data.train),
        dynamic_sampling=extra.dynamic_sampling,
    )


def judge_rewards(history: list[dict[str, Any]]) -> None:
    """Look at what GRPO logged.

    Raises:
        StageFailed: no completion got a reward, or in no step did the rewards of any group differ, so no step could
            teach anything.
    """
    from algorithms.preflight import NO_REWARD
    from utils.errors import StageFailed

    steps = [line for line in history if "frac_reward_zero_std" in line]
    rewards = [
        line["reward"] for line in steps if line["reward"] is not None
    ]  # None: no completion of the step has one
    if steps and not rewards:
        raise StageFailed(NO_REWARD)
    if not steps or any(line["frac_reward_zero_std"] < 1 for line in steps):
        return
    mean = sum(rewards) / len(rewards)
    clipped = sum(line["completions/clipped_ratio"] for line in steps) / len(steps)
    raise StageFailed(
        f"the rewards never varied within a group: mean reward {mean:.3g}, and {clipped:.0%} of the completions were"
        " cut off at max_completion_length. Look at: whether the reward reads the right columns and the text;"
        " whether completions have room to end; whether the task is out of reach (lowest reward always: more SFT, or"
        " easier prompts) or already solved; num_generations, and temperature in trainer_args."
    )


class _GRPO(Kind):
    name = "grpo"
    config_class = TrainingConfig
    layout = "prompts"
    samples = True
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "rewards")
    figures = {
        "skills strict": "exact match",
        "skills strict/*": "  *",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "skills flexible": "right in any form",
        "skills stop_rate": "stop rate",
        "rewards *": "*",
        "sampled_rewards *": "*",
        "reward_model prefers_after": "reward model prefers",
        "documents loss": "forgetting: loss",
        "documents bits_per_byte": "forgetting: bits/byte",
    }
    headlines = ("sampled_skills strict", "rewards *", "reward_model prefers_after")

    def problems(self, config: TrainingConfig, extra: Any = None) -> list[str]:
        from algorithms.checks import check

        return check(self.name, config, extra)

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        return train(stage.config, stage_dir, stage.extra)


GRPO = _GRPO()
