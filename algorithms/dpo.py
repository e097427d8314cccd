"""Direct preference optimisation: prefer the chosen answers, near the reference (Rafailov et al., 2023)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.trl_kind import FORGETTING, TrlKind
from kinds import Stage

if TYPE_CHECKING:
    from data.sources import StageData


class DirectPreferenceOptimisation(TrlKind):
    """Trains on pairs of a chosen and a rejected answer.

    The reference is the stage's own input, which TRL loads a second time, or with `precompute_ref_log_probs` runs once
    over the data before training. `trainer_args` may name several losses and weights.
    """

    name = "dpo"
    trl_config = "DPOConfig"
    layout = "pairs"
    sequences_per_row = 2
    has_reference = True
    bar = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
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
        **FORGETTING,
    }
    headlines = ("skills strict", "reward_model prefers_after", "preferences accuracy")

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return TRL's trainer.

        Raises:
            StageFailed: most pairs are longer than `max_length`.
        """
        from trl import DPOTrainer

        from algorithms import supervision

        trainer = DPOTrainer(**self.parts(stage, stage_dir, data))
        return trainer, supervision.inspect_pairs(trainer, data, stage_dir)


DPO = DirectPreferenceOptimisation()
