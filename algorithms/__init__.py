"""Post-training: supervised fine-tuning, reward modelling, DPO and GRPO, each a `train` function over TRL's trainer."""

import sys

from algorithms.config import KINDS, GRPOExtraConfig, StageOutput, TrainingConfig

try:
    from algorithms.checks import check
except ModuleNotFoundError as error:  # a recipe run as a script has its own directory before ours
    if not (error.name or "").startswith("utils."):
        raise
    raise ImportError(f"{sys.modules['utils'].__file__} hides sixgig's package utils: rename it") from error

__all__ = ["KINDS", "GRPOExtraConfig", "StageOutput", "TrainingConfig", "check"]
