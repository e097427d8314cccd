"""Post-training: supervised fine-tuning, reward modelling, DPO and GRPO, each a `train` function over TRL's trainer."""

from algorithms.checks import check
from algorithms.config import KINDS, GRPOExtraConfig, StageOutput, TrainingConfig

__all__ = ["KINDS", "GRPOExtraConfig", "StageOutput", "TrainingConfig", "check"]
