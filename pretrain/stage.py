"""Pretraining as a kind of stage."""

from pathlib import Path
from typing import Any

from kinds import Kind, Stage
from pretrain.config import PretrainConfig, range_problems
from utils.values import mistyped


class _Pretrain(Kind):
    name = "pretrain"
    config_class = PretrainConfig
    layout = "documents"
    starts_from_nothing = True
    chats = False
    tasks = ("skills", "documents")
    figures = {
        "documents loss": "document loss",
        "documents accuracy": "next-token accuracy",
        "documents bits_per_byte": "bits per byte",
        "skills strict": "exact match",
    }
    headlines = ("documents bits_per_byte", "documents loss")

    def problems(self, config: PretrainConfig, extra: Any = None) -> list[str]:
        return [f"{self.name}: {one}" for one in list(mistyped(config).values()) or range_problems(config)]

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        import pretrain

        return pretrain.train(stage.config, stage_dir)


PRETRAIN = _Pretrain()
