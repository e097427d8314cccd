"""One stage, trained as a run trains it, without the run around it."""

from pathlib import Path
from typing import Any

from algorithms import GRPOExtraConfig
from algorithms.trl_kind import TrlKind
from chain.recovery import train_within_memory
from data.sources import StageData, load_for
from kinds import KINDS as REGISTERED
from kinds import Kind, Stage, named
from utils.limits import Clock, Limits

KINDS = tuple(name for name in REGISTERED if isinstance(named(name), TrlKind))
"""The kinds that TRL's trainers train."""


def stage_of(kind: str | Kind, config: Any, extra: Any = None) -> Stage:
    """Return a stage under the label of its kind."""
    kind = named(kind) if isinstance(kind, str) else kind
    return Stage(kind.name, kind, config, (extra or GRPOExtraConfig()) if kind.samples else None)


def train(kind: str | Kind, config: Any, stage_dir: Path, extra: Any = None, **limits: Any) -> Path:
    """Train into `stage_dir`."""
    return train_within_memory(stage_of(kind, config, extra), stage_dir, Clock(Limits(**limits)))


def trainer_of(
    kind: str | Kind, config: Any, stage_dir: Path, extra: Any = None, data: StageData | None = None
) -> tuple[Any, StageData]:
    """Return the trainer that a stage would train with, and its rows."""
    stage: Any = stage_of(kind, config, extra)
    built = stage.kind.build(stage, stage_dir, data or load_for(config, stage.kind.name))
    return built[0], built[1]
