"""Reward modelling: learn to score answers as people's preferences would (Bradley and Terry, 1952)."""

from pathlib import Path
from typing import Any

from algorithms.config import TrainingConfig
from algorithms.recovery import survives_out_of_memory
from kinds import Kind, Stage


@survives_out_of_memory("reward")
def train(config: TrainingConfig, stage_dir: Path) -> Path:
    """Train on pairs of a chosen and a rejected answer; return the checkpoint's directory.

    It loads with `AutoModelForSequenceClassification` and gives one score, read at the last token of the conversation.
    Its head is new, from `config.seed`.

    Raises:
        StageFailed: most pairs are longer than `max_length`, or training did not work.
    """
    from trl import RewardTrainer

    from algorithms import liger, loading, supervision, training

    data = training.rows(config, "reward")
    tokenizer = loading.tokenizer(config, data.train)
    settings = training.trl_config("reward", config, stage_dir)
    trainer = RewardTrainer(
        model=liger.with_liger(loading.reward_model(config, tokenizer.pad_token_id), config, stage_dir),
        args=settings,
        train_dataset=data.train,
        eval_dataset=training.eval_rows(settings, data),
        processing_class=tokenizer,
    )
    data = supervision.inspect_pairs(trainer, data, stage_dir)
    return training.fit(trainer, config, stage_dir, data, {"loss": "loss", "accuracy": "accuracy"})


class _Reward(Kind):
    name = "reward"
    config_class = TrainingConfig
    layout = "pairs"
    scores = True
    tasks = ("verified_answers", "pairs")
    figures = {
        "pairs accuracy": "pairs ranked right",
        "pairs margin": "margin",
        "pairs brier": "Brier score",
        "pairs calibration_error": "calibration error",
        "pairs length_bias": "length bias",
        "verified_answers auc": "AUC against verifier",
    }
    headlines = ("pairs accuracy",)

    def problems(self, config: TrainingConfig, extra: Any = None) -> list[str]:
        from algorithms.checks import check

        return check(self.name, config)

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        return train(stage.config, stage_dir)


REWARD = _Reward()
