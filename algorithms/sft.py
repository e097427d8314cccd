"""Supervised fine-tuning: learn to answer from examples of good answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.trl_kind import EXACT, FORGETTING, TrlKind
from kinds import Stage

if TYPE_CHECKING:
    from data.sources import StageData


class SupervisedFineTuning(TrlKind):
    """Trains on `messages`, on `prompt` and `completion`, or on `text` rows.

    Only the assistant's turns, or the completions, are learnt; of `text` every token is. A model without a chat
    template gets the project's.
    """

    name = "sft"
    trl_name = "SFT"
    layout = "conversations"
    gives_template = True
    bar = {"loss": "loss", "mean_token_accuracy": "accuracy"}
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "other_questions", "answers")
    figures = (
        *EXACT,
        "skills stop_rate",
        "demonstrations loss",
        "demonstrations accuracy",
        "answers stop_rate",
        *FORGETTING,
    )
    headlines = ("skills strict", "demonstrations loss")

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return TRL's trainer.

        Raises:
            StageFailed: most examples do not end within `max_length`.
        """
        from trl import SFTTrainer

        from algorithms import loading, supervision

        tokenizer = loading.tokenizer(stage.config, data.train, gives_template=True)
        data = supervision.as_read(tokenizer, data)
        trains_on, defaults = supervision.choose(tokenizer, data.train, stage.config)
        parts = self.parts(stage, stage_dir, data, tokenizer, **defaults)
        for side in ("train_dataset", "eval_dataset"):
            parts[side] = parts[side] and trains_on(parts[side])
        trainer = SFTTrainer(**parts)
        return trainer, supervision.inspect(trainer, parts["train_dataset"], data, stage_dir)


SFT = SupervisedFineTuning()
