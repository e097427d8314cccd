"""Reward modelling: learn to score answers as people's preferences would (Bradley and Terry, 1952)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.trl_kind import TrlKind
from kinds import Stage

if TYPE_CHECKING:
    from data.sources import StageData


class RewardModelling(TrlKind):
    """Trains on pairs of a chosen and a rejected answer.

    The result loads with `AutoModelForSequenceClassification` and gives one score, read at the last token of the
    conversation. Its head is new, from `config.seed`.
    """

    name = "reward"
    trl_config = "RewardConfig"
    layout = "pairs"
    scores = True
    sequences_per_row = 2
    keeps_adapters = False
    bar = {"loss": "loss", "accuracy": "accuracy"}
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

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return TRL's trainer.

        Raises:
            StageFailed: most pairs are longer than `max_length`.
        """
        from trl import RewardTrainer

        from algorithms import supervision

        trainer = RewardTrainer(**self.parts(stage, stage_dir, data))
        return trainer, supervision.inspect_pairs(trainer, data, stage_dir)


REWARD = RewardModelling()
