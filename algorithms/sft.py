"""Supervised fine-tuning: learn to answer from examples of good answers."""

from pathlib import Path
from typing import Any

from algorithms.config import TrainingConfig
from algorithms.recovery import survives_out_of_memory
from kinds import Kind, Stage


@survives_out_of_memory("sft")
def train(config: TrainingConfig, stage_dir: Path) -> Path:
    """Train on `messages`, on `prompt` and `completion`, or on `text` rows; return the checkpoint's directory.

    Only the assistant's turns, or the completions, are learnt; of `text` every token is. A model without a chat
    template gets the project's.

    Raises:
        StageFailed: most examples do not end within `max_length`, or training did not work.
    """
    from trl import SFTTrainer

    from algorithms import liger, loading, supervision, training

    data = training.rows(config, "sft")
    tokenizer = loading.tokenizer(config, data.train, gives_template=True)
    trains_on, defaults = supervision.choose(tokenizer, data.train, config)
    settings = training.trl_config("sft", config, stage_dir, **defaults)
    held_out = training.eval_rows(settings, data)
    rows = trains_on(data.train)
    trainer = SFTTrainer(
        model=liger.with_liger(loading.language_model(config), config, stage_dir),
        args=settings,
        train_dataset=rows,
        eval_dataset=None if held_out is None else trains_on(held_out),
        processing_class=tokenizer,
    )
    data = supervision.inspect(trainer, rows, data, stage_dir)
    return training.fit(trainer, config, stage_dir, data, {"loss": "loss", "mean_token_accuracy": "accuracy"})


class _SFT(Kind):
    name = "sft"
    config_class = TrainingConfig
    layout = "conversations"
    gives_template = True
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "answers")
    figures = {
        "skills strict": "exact match",
        "skills strict/*": "  *",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "skills stop_rate": "stop rate",
        "demonstrations loss": "demonstration loss",
        "demonstrations accuracy": "token accuracy",
        "answers stop_rate": "stop rate",
        "documents loss": "forgetting: loss",
        "documents bits_per_byte": "forgetting: bits/byte",
    }
    headlines = ("skills strict", "demonstrations loss")

    def problems(self, config: TrainingConfig, extra: Any = None) -> list[str]:
        from algorithms.checks import check

        return check(self.name, config)

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        return train(stage.config, stage_dir)


SFT = _SFT()
