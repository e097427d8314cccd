"""The kinds of stages: what the house asks of a kind, and the registry of those there are.

A kind is one object in one file, and everything that is true of that kind alone stands there. To add one, write that
file, and a line in `KINDS`; a recipe of your own may call `register` instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import Refused, did_you_mean

Config = Any
"""A stage's configuration: an object of its kind's `config_class`."""


class Kind(ABC):
    """A kind of stage."""

    name: ClassVar[str]
    """What a recipe calls it, as a label or as `stage=`; records hold it."""
    config_class: ClassVar[type]
    """The dataclass of its configuration."""
    layout: ClassVar[str]
    """The columns that it trains on, by their name in `data.layouts`: `documents`, `conversations`, `pairs`,
    `prompts`, `labelled`."""
    starts_from_nothing: ClassVar[bool] = False
    """It draws random weights, instead of loading a model that its configuration names."""
    scores: ClassVar[bool] = False
    """It makes a reward model, which gives one score; otherwise a policy, which writes."""
    chats: ClassVar[bool] = True
    """Its model answers through the chat template; a base continues text."""
    gives_template: ClassVar[bool] = False
    """It gives a model without a chat template the project's, and teaches it."""
    samples: ClassVar[bool] = False
    """It samples what it trains on and takes rewards: a `GRPOExtraConfig` belongs to it."""

    tasks: ClassVar[Sequence[Any]] = ()
    """What measures it, in order: names in `evaluation.choose.BUILDERS`, or functions of the same form."""
    figures: ClassVar[Mapping[str, str]] = {}
    """The results that matter, in order: a pattern of "task metric", and the name that tables show. A `*` in the name
    stands for what the pattern's `*` matched."""
    headlines: ClassVar[Sequence[str]] = ()
    """What it is trained to change, as patterns of "task metric": the first that was measured is its verdict."""
    curves: ClassVar[Sequence[str]] = ()
    """The logged metrics that the report draws besides those of every kind."""

    @abstractmethod
    def problems(self, config: Config, extra: Any = None) -> list[str]:
        """Return everything wrong with a configuration, one line each; models and data are not looked at."""

    @abstractmethod
    def train(self, stage: "Stage", stage_dir: Path, limits: Any) -> Path:
        """Train into `stage_dir`, from the newest checkpoint there, and return it; every model is a directory by now.

        Raises:
            StageFailed: it cannot go on, or training did not work.
            Interrupted: the user, or `limits`, stopped it; a checkpoint holds what was done.
        """


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as the recipe has it."""

    label: str
    """Its key in the recipe, by which everything else names it."""
    kind: Kind
    config: Config
    extra: Any = None
    """Rewards and sampling; None for a kind that does not sample."""


KINDS: dict[str, str | Kind] = {
    "pretrain": "pretrain.stage:PRETRAIN",
    "sft": "algorithms.sft:SFT",
    "reward": "algorithms.reward:REWARD",
    "dpo": "algorithms.dpo:DPO",
    "grpo": "algorithms.grpo:GRPO",
}
"""Each kind by its name, or where it stands: it is imported when it is first asked for."""


def named(name: str) -> Kind:
    """Return the kind of that name.

    Raises:
        Refused: there is none.
    """
    if name not in KINDS:
        raise Refused(f"there is no kind of stage {name!r}{did_you_mean(name, KINDS) or '.'} Kinds: {', '.join(KINDS)}")
    found = KINDS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = KINDS[name] = getattr(import_module(module), attribute)
    assert isinstance(found, Kind), found
    return found


def register(kind: Kind) -> Kind:
    """Add a kind of your own, and return it; a recipe calls this above its `configs`."""
    KINDS[kind.name] = kind
    return kind


class Unknown(Kind):
    """The kind of a recorded stage that is not registered here: it can be shown, not trained."""

    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name

    def problems(self, config: Config, extra: Any = None) -> list[str]:
        """Return that it cannot be trained here."""
        return [f"the kind of stage {self.name!r} is not registered here"]

    def train(self, stage: Stage, stage_dir: Path, limits: Any) -> Path:
        """Refuse."""
        raise Refused(self.problems(stage.config)[0])


def recorded(record: Mapping[str, Any]) -> Kind:
    """Return the kind of a stage by its entry in run_info.json, or its stage_info.json.

    Records made before stages had labels hold no `kind`: there the name is that of the kind.
    """
    name = str(record.get("kind") or record.get("name"))
    return named(name) if name in KINDS else Unknown(name)
