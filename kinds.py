"""The kinds of stages: what the house asks of a kind, and the registry of those there are.

A kind is one object in one file, and everything that is true of that kind alone stands there. To add one, write that
file, and a line in `KINDS`; a recipe of your own may call `register` instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from utils.errors import Refused, did_you_mean

if TYPE_CHECKING:
    from utils.limits import Clock

Config = Any
"""A stage's configuration: an object of its kind's `config_class`."""


@dataclass(frozen=True)
class StageOutput:
    """The output of an earlier stage of the same run, as the input of a later one: `StageOutput("sft")`."""

    name: str
    """Label of that stage: its key in the recipe."""


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
    figures: ClassVar[Sequence[str]] = ()
    """The results that matter, in order: patterns of "task metric", the name by which tables show them and gates ask.
    """
    headlines: ClassVar[Sequence[str]] = ()
    """What it is trained to change, as patterns of "task metric": the first that was measured is its verdict."""
    curves: ClassVar[Sequence[str]] = ()
    """Patterns of logged metrics that the report draws besides those of every kind."""

    @abstractmethod
    def problems(self, config: Config, extra: Any = None) -> list[str]:
        """Return everything wrong with a configuration, one line each; models and data are not looked at."""

    def plain_problems(self, config: Config, extra: Any = None) -> list[str]:
        """Return those of `problems` that are seen at once, without a library; they are told first."""
        return []

    @abstractmethod
    def load(self, config: Config) -> tuple[dict[str, Any], Any]:
        """Return what the stage's record tells of its data, and its rows; None for documents, which stay on disk.

        Raises:
            Refused: the data cannot be had, or do not suit the stage.
        """

    @abstractmethod
    def train(self, stage: "Stage", stage_dir: Path, clock: "Clock") -> Path:
        """Train into `stage_dir`, from the newest checkpoint there, and return it; every model is a directory by now.

        Raises:
            StageFailed: it cannot go on, or training did not work.
            Interrupted: the user, or the run's limit of time, stopped it; a checkpoint holds what was done.
            OutOfMemory: memory ran out; `with_micro_batch` may help.
        """

    def rehearse(  # noqa: B027  a kind that no library may refuse has nothing to try
        self, stage: "Stage", data: Any, tokenizer: Any, model_config: Any, *, stand_in: bool
    ) -> None:
        """Try a step on a few rows with a tiny model of that configuration, where the stage's libraries may refuse one.

        `stand_in`: the tokenizer is not the one that the stage will have.

        Raises:
            Refused: what the stage would fail with.
        """

    def stand_in(self, config: Config) -> tuple[Any, Any] | None:
        """Return a tokenizer and a model configuration for what a stage makes that starts from nothing.

        None: there are none, so that the stages after it are not rehearsed.
        """
        return None

    def untrained(self, stage_dir: Path, seed: int) -> Any:
        """Return the random weights that a stage which starts from nothing began with."""
        raise NotImplementedError(self.name)

    @abstractmethod
    def trainer_args(self, config: Config, extra: Any = None) -> Any:
        """Return what the stage trains with, every default filled in, under the names of transformers."""

    @abstractmethod
    def micro_batch(self, config: Config) -> "MicroBatch":
        """Return how an optimizer step of one process is made up."""

    @abstractmethod
    def with_micro_batch(self, config: Config, batch: "MicroBatch", extra: Any = None) -> Config:
        """Return the configuration with its step made up so."""

    def least_rows(self, config: Config) -> int:
        """Return the fewest rows that one pass may have."""
        return 1

    @abstractmethod
    def advice(self, config: Config) -> str:
        """Return what would take less memory than one row at a time does now."""

    @abstractmethod
    def steps(self, args: Any, rows: int | None, processes: int) -> int | None:
        """Return the optimizer steps on `rows` rows by `trainer_args`; None if that is not known."""

    @abstractmethod
    def work(self, config: Config, args: Any, extra: Any = None) -> "Work":
        """Return what a step by `args`, the `trainer_args`, computes: for the forecasts of memory and time."""

    def is_here(self, config: Config) -> bool:
        """Tell whether the data are on this machine, or need no download."""
        from utils import hub

        return not hub.is_dataset_id(config.dataset_name) or hub.has_dataset(config.dataset_name)

    def model_config(self, config: Config) -> Any:
        """Return the transformers configuration of the model of a stage that starts from nothing."""
        raise NotImplementedError(self.name)


@dataclass(frozen=True)
class MicroBatch:
    """How an optimizer step of one process is made up."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    generation_batch_size: int = 0
    """Completions that are sampled at once, a multiple of the rows too; 0 for a kind that samples none."""

    def smaller(self) -> "MicroBatch | None":
        """Return the same step in more passes: half the rows; if they are odd, the next smaller number that divides.

        None where it is one row.
        """
        rows = self.per_device_train_batch_size
        return next(self.divided(rows // 2 if rows % 2 == 0 else rows - 1), None)

    def divided(self, most: int) -> "Iterator[MicroBatch]":
        """Yield the same step with fewer rows in a pass, the largest number that is no more than `most` first."""
        step_rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
        for rows in range(most, 0, -1):
            if step_rows % rows == 0 and self.generation_batch_size % rows == 0:
                yield MicroBatch(rows, step_rows // rows, self.generation_batch_size)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one optimizer step computes."""

    dtype: str = "float32"
    """Type that the weights are loaded in; `auto`: as they were saved."""
    autocast: str | None
    """Type that the matrix products give on the GPU; None is that of the weights."""
    optim: str
    sequences_per_row: int = 1
    """2 for pairs, whose sides are two sequences."""
    prompt_and_completion_tokens: tuple[int, int] | None = None
    """Of a kind that samples, the longest prompt and completion; other kinds have `max_length`."""
    whole_logits: bool = False
    """The logits of a pass are made at once; TRL's trainers make them in tiles."""
    reference: bool = False
    """A second copy of the weights is there, unless an adapter is trained."""
    reference_passes: float = 0.0
    """Forward passes of the reference, for each pass of training."""
    reference_ahead: bool = False
    """The reference reads every row once, before the first step."""
    generations_per_pass: float = 0.0
    """Generations sampled, for each pass of training."""
    generations_ahead: int = 0
    """Generations sampled before the first step."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as the recipe has it."""

    label: str
    """Its key in the recipe, by which everything else names it."""
    kind: Kind
    config: Config
    extra: Any = None
    """Rewards and sampling; None for a kind that does not sample."""

    @property
    def model(self) -> str | StageOutput | None:
        """What the stage starts from; None for random weights."""
        return None if self.kind.starts_from_nothing else self.config.model_name

    @property
    def reward_models(self) -> list[str | StageOutput]:
        """The reward models that it asks; its other rewards are functions."""
        return list(self.extra.reward_models) if self.extra else []

    def hub_models(self) -> Iterator[tuple[str, str | None]]:
        """Yield name and revision of each model that no stage makes."""
        if isinstance(self.model, str):
            yield self.model, self.config.revision
        yield from ((name, None) for name in self.reward_models if isinstance(name, str))

    def with_paths(self, path_of: Callable[[str | StageOutput, str | None], Path]) -> "Stage":
        """Return the stage with every model replaced by its directory; `path_of` takes its name and revision."""
        if self.model is None:
            return self
        config = replace(self.config, model_name=str(path_of(self.model, self.config.revision)), revision=None)
        extra = self.extra and self.extra.with_reward_models(lambda one: str(path_of(one, None)))
        return replace(self, config=config, extra=extra)


KINDS: dict[str, str | Kind] = {
    "pretrain": "pretrain.stage:PRETRAIN",
    "sft": "algorithms.sft:SFT",
    "reward": "algorithms.reward:REWARD",
    "dpo": "algorithms.dpo:DPO",
    "kto": "algorithms.kto:KTO",
    "grpo": "algorithms.grpo:GRPO",
    "rloo": "algorithms.rloo:RLOO",
}
"""Each kind by its name, or where it stands: it is imported when it is first asked for."""
SHIPPED = frozenset(KINDS)


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
    """Add a kind of your own, and return it; a recipe calls this above its `configs`.

    Raises:
        Refused: it is no kind, or sixgig itself has one of that name.
    """
    if not isinstance(kind, Kind):
        raise Refused(f"register: {kind!r} is no kind: give it an object, such as Mine()")
    lacks = [name for name in ("name", "config_class", "layout") if not hasattr(kind, name)]
    if lacks:
        raise Refused(f"register: {type(kind).__name__} lacks {', '.join(lacks)}")
    if kind.name in SHIPPED:
        raise Refused(f"register: the kind {kind.name!r} is sixgig's own: call yours otherwise")
    KINDS[kind.name] = kind
    return kind


class Unknown(Kind):
    """The kind of a recorded stage that is not registered here: it can be shown, not trained."""

    config_class = object
    layout = ""

    def __init__(self, name: str) -> None:
        vars(self)["name"] = name

    def problems(self, config: Config, extra: Any = None) -> list[str]:
        """Return that it cannot be trained here."""
        return [f"the kind of stage {self.name!r} is not registered here"]

    def _refuse(self, *_: Any) -> Any:
        raise Refused(self.problems(None)[0])

    load = train = trainer_args = micro_batch = with_micro_batch = advice = steps = work = _refuse  # type: ignore[assignment]


def recorded(record: Mapping[str, Any]) -> Kind:
    """Return the kind of a stage by its entry in run_info.json, or its stage_info.json.

    Records made before stages had labels hold no `kind`: there the name is that of the kind.
    """
    name = str(record.get("kind") or record.get("name"))
    return named(name) if name in KINDS else Unknown(name)
