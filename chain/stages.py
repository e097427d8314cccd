"""The stages of a run: what one is, how its parts are named, and everything wrong with a recipe, told at once."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from algorithms.config import KINDS as ALGORITHMS
from algorithms.config import GRPOExtraConfig, StageOutput, TrainingConfig
from algorithms.rewards import name_of
from chain import gates
from pretrain import PretrainConfig
from pretrain.config import range_problems
from utils import trackers, values
from utils.errors import Refused, did_you_mean, refusal
from utils.run_directory import STAGE_DIR
from utils.values import mistyped

Config = TrainingConfig | PretrainConfig

KINDS = ("pretrain", *ALGORITHMS)
RESERVED = ("run_info.json", "console_output.log", "report.html", "evaluation_scores.json")


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as the recipe has it."""

    kind: str
    config: Any
    extra: GRPOExtraConfig | None = None
    """GRPO's rewards and sampling; None for every other kind."""

    @property
    def model(self) -> str | StageOutput | None:
        """What the stage starts from; None for pretraining."""
        return self.config.model_name if isinstance(self.config, TrainingConfig) else None

    @property
    def reward_models(self) -> list[str | StageOutput]:
        """The reward models that GRPO uses; its other rewards are functions."""
        return [one for one in (self.extra.rewards if self.extra else ()) if is_reward_model(one)]

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
        if self.extra is None:
            return replace(self, config=config)
        rewards = [str(path_of(one, None)) if is_reward_model(one) else one for one in self.extra.rewards]
        return replace(self, config=config, extra=replace(self.extra, reward_func=rewards))


def is_reward_model(reward: Any) -> TypeGuard[str | StageOutput]:
    """Tell whether one of GRPO's rewards is a model, not a function or the name of a built-in one."""
    from algorithms.rewards import BUILT_IN

    return isinstance(reward, StageOutput) or (isinstance(reward, str) and reward not in BUILT_IN)


def reference(model: str | StageOutput) -> str:
    """Return how a recipe names a model. Records hold it, and are compared with it."""
    return f'StageOutput("{model.name}")' if isinstance(model, StageOutput) else model


def reward_name(source: Any) -> str:
    """Return how a recipe names a reward. Records hold it, and are compared with it."""
    if isinstance(source, str | StageOutput):
        return reference(source)
    return name_of(source)


def shown(source: Any) -> str:
    """Return how a model or a reward is called on the screen; None stands for pretraining's random weights."""
    if source is None:
        return "random weights"
    return f"output of stage {source.name}" if isinstance(source, StageOutput) else reward_name(source)


def stages_of(
    configs: Mapping[str, Config],
    grpo_extra: GRPOExtraConfig | None = None,
    only: Sequence[str] | None = None,
    outputs: Mapping[str, Path] | None = None,
    verifier: Any = None,
) -> list[Stage]:
    """Return the stages to run, in order: those named in `only`, or all. `outputs` are stages of an earlier run.

    Raises:
        Refused: with every problem of the recipe.
    """
    problems = [*_shape(configs, grpo_extra), *_choice(configs, only)]
    stages: list[Stage] = []
    if not problems:
        extra = {"grpo": grpo_extra or GRPOExtraConfig()}
        chosen = [kind for kind in configs if only is None or kind in only]
        stages = [Stage(kind, configs[kind], extra.get(kind)) for kind in chosen]
        problems += _directories(stages)
        problems += _adapters(stages)
        problems += _inputs([one for one in stages if not mistyped(one.extra)], list(configs), outputs or {})
        for stage in stages:
            problems += _config_problems(stage)
        problems += gates.problems(stages, outputs or {}, verifier)
    try:
        trackers.requested()
    except Refused as error:
        problems.append(str(error))
    if problems:
        raise refusal(problems)
    return stages


def _shape(configs: Any, extra: Any) -> Iterator[str]:
    if not isinstance(configs, Mapping) or not configs:
        yield f"it has no stages: give a dict with one or more of {', '.join(KINDS)}; given: {values.shown(configs)}"
        return
    for position, (kind, config) in enumerate(configs.items()):
        wanted: type = PretrainConfig if kind == "pretrain" else TrainingConfig
        if kind not in KINDS:
            near = did_you_mean(kind if isinstance(kind, str) else "", KINDS)
            yield f"{values.shown(kind)} is no kind of stage{near or '.'} Allowed: {', '.join(KINDS)}"
        elif not isinstance(config, wanted):
            yield f"{kind}: must be a {wanted.__name__}; given: {values.shown(config)}"
        if kind == "pretrain" and position:
            yield "pretrain: must be the first stage, since it starts from nothing"
    if not isinstance(extra, GRPOExtraConfig | None):
        yield f"grpo_extra: must be a GRPOExtraConfig; given: {values.shown(extra)}"
    elif extra is not None and "grpo" not in configs:
        yield "grpo_extra: nothing reads it, since the recipe has no grpo stage"


def _choice(configs: Any, only: Sequence[str] | None) -> Iterator[str]:
    for name, times in Counter(only or ()).items():
        if isinstance(configs, Mapping) and name not in configs:
            near = did_you_mean(name, configs)
            yield f"--stages {name}: the recipe has no such stage{near or '.'} It has: {', '.join(configs)}"
        elif times > 1:
            yield f"--stages names {name} {times} times: a stage runs once"
    if only is not None and not only:
        yield "--stages names no stage"


def _directories(stages: list[Stage]) -> Iterator[str]:
    taken: dict[str, str] = {}
    for stage in stages:
        name = stage.config.output_dir
        if not isinstance(name, str) or not STAGE_DIR.fullmatch(name) or name in RESERVED:
            yield f"{stage.kind}: output_dir = {values.shown(name)}: must be the plain name of a directory in the run's"
            continue
        other = taken.setdefault(name.casefold(), stage.kind)
        if other != stage.kind:
            yield f"{stage.kind}: output_dir = {name!r} is in use by {other}: each stage needs its own"


def _inputs(stages: list[Stage], order: list[str], outputs: Mapping[str, Path]) -> Iterator[str]:
    """Every StageOutput must name a stage of the right sort that runs earlier, or that ran in the earlier run."""
    chosen = [stage.kind for stage in stages]
    for stage in stages:
        wanted = [("model_name", stage.model, False), *(("reward_func", one, True) for one in stage.reward_models)]
        for field, ref, is_reward in wanted:
            if not isinstance(ref, StageOutput):
                continue
            said = f'{stage.kind}: {field} = StageOutput("{ref.name}")'
            if ref.name not in order:
                near = did_you_mean(ref.name, order)
                yield f"{said}: the recipe has no such stage{near or '.'} It has: {', '.join(order)}"
            elif order.index(ref.name) >= order.index(stage.kind):
                yield f"{said}: that stage does not run before {stage.kind}; move it up, or name an earlier one"
            elif ref.name not in chosen and ref.name not in outputs:
                ran = f"; that run has: {', '.join(outputs)}" if outputs else ""
                yield f"{said} has not run: add {ref.name} to --stages, or name a run that has it with --from{ran}"
            elif is_reward != (ref.name == "reward"):
                yield f"{said}: must be {'the reward stage' if is_reward else 'a language model, not a reward model'}"


def _adapters(stages: list[Stage]) -> Iterator[str]:
    """A stage that starts from an adapter which another keeps must train it on as it is."""
    keeping = {one.kind: one.config for one in stages if one.model is not None and one.config.merge_adapter is False}
    by_kind = {one.kind: one for one in stages}
    for stage in stages:
        name = stage.model.name if isinstance(stage.model, StageOutput) else ""
        while (made := by_kind.get(name)) and name not in keeping and made.config.on_fail == "input":
            name = made.model.name if isinstance(made.model, StageOutput) else ""  # what it gets if a gate fails
        source = keeping.get(name)
        if source is None:
            continue
        starts = f"{stage.kind}: starts from the adapter that {name} keeps (merge_adapter=False)"
        if stage.config.peft is None:
            yield (
                f"{starts}, and trains all weights: set peft='lora' (or 'qlora') in {stage.kind} to train the adapter"
                f" on, or leave out merge_adapter in {name}"
            )
        elif stage.config.peft_args and source.peft_args and stage.config.peft_args != source.peft_args:
            yield f"{starts}: its peft_args must be those of {name}, {values.shown(source.peft_args)}, or be left out"


def _config_problems(stage: Stage) -> list[str]:
    from algorithms.checks import check

    if isinstance(stage.config, TrainingConfig):
        return check(stage.kind, stage.config, stage.extra)
    problems = list(mistyped(stage.config).values())
    return [f"pretrain: {problem}" for problem in problems or range_problems(stage.config)]
