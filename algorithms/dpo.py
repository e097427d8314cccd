"""Direct preference optimisation: prefer the chosen answers, near the reference (Rafailov et al., 2023)."""

from pathlib import Path
from typing import Any

from algorithms.config import TrainingConfig
from algorithms.recovery import survives_out_of_memory
from kinds import Kind, Stage


@survives_out_of_memory("dpo")
def train(config: TrainingConfig, stage_dir: Path) -> Path:
    """Train on pairs of a chosen and a rejected answer; return the checkpoint's directory.

    The reference is the stage's own input, which TRL loads a second time, or with `precompute_ref_log_probs` runs once
    over the data before training. `trainer_args` may name several losses and weights.

    Raises:
        StageFailed: most pairs are longer than `max_length`, or training did not work.
    """
    from trl import DPOTrainer

    from algorithms import liger, loading, supervision, training

    data = training.rows(config, "dpo")
    tokenizer = loading.tokenizer(config, data.train)
    settings = training.trl_config("dpo", config, stage_dir)
    if config.peft is None:  # an adapter's reference is the same model with the adapter off, or an earlier adapter on
        settings.model_init_kwargs = loading.options(config)  # of the reference, which TRL loads by the policy's name
    trainer = DPOTrainer(
        model=liger.with_liger(loading.language_model(config), config, stage_dir),
        args=settings,
        train_dataset=data.train,
        eval_dataset=training.eval_rows(settings, data),
        processing_class=tokenizer,
    )
    data = supervision.inspect_pairs(trainer, data, stage_dir)
    shown = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return training.fit(trainer, config, stage_dir, data, shown)


class _DPO(Kind):
    name = "dpo"
    config_class = TrainingConfig
    layout = "pairs"
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "preferences", "answers")
    figures = {
        "preferences accuracy": "pairs ranked right",
        "preferences margin": "margin",
        "preferences chosen_logp": "chosen logp",
        "preferences rejected_logp": "rejected logp",
        "reward_model prefers_after": "reward model prefers",
        "skills strict": "exact match",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "answers stop_rate": "stop rate",
        "documents loss": "forgetting: loss",
        "documents bits_per_byte": "forgetting: bits/byte",
    }
    headlines = ("skills strict", "reward_model prefers_after", "preferences accuracy")

    def problems(self, config: TrainingConfig, extra: Any = None) -> list[str]:
        from algorithms.checks import check

        return check(self.name, config)

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        return train(stage.config, stage_dir)


DPO = _DPO()
