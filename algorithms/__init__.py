"""Post-training: each file named after a kind of stage holds that kind, over TRL's trainer of it."""

import sys

try:
    from algorithms.checks import check
    from algorithms.config import GRPOExtraConfig, TrainingConfig
    from kinds import StageOutput
except ModuleNotFoundError as error:  # a recipe run as a script has its own directory before ours
    if not (error.name or "").startswith("utils."):
        raise
    raise ImportError(f"{sys.modules['utils'].__file__} hides sixgig's package utils: rename it") from error

__all__ = ["GRPOExtraConfig", "StageOutput", "TrainingConfig", "check"]
