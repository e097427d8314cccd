"""The stages of a recipe: how their parts are named, and everything wrong with them, told at once."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kinds
from algorithms.config import GRPOExtraConfig
from algorithms.rewards import name_of
from chain import stage_gates as gates
from kinds import Kind, Stage, StageOutput
from records.run_directory import STAGE_DIR
from utils import values
from utils.errors import Refused, did_you_mean, refusal
from utils.secrets import hide
from utils.values import mistyped
from watching import trackers

RESERVED = ("run_info.json", "console_output.log", "report.html", "evaluation_scores.json")
LABEL = re.compile(r"\w[\w-]*")

Extra = GRPOExtraConfig | Mapping[str, GRPOExtraConfig] | None
"""Rewards and sampling: one for every stage that samples, or one for each label."""


def reference(model: str | StageOutput) -> str:
    """Return how a recipe names a model. Records hold it, and are compared with it."""
    return f'StageOutput("{model.name}")' if isinstance(model, StageOutput) else model


def reward_name(source: Any) -> str:
    """Return how a recipe names a reward. Records hold it, and are compared with it."""
    if isinstance(source, str | StageOutput):
        return reference(source)
    return name_of(source)


def shown(source: Any) -> str:
    """Return how a model or a reward is called on the screen; None stands for random weights."""
    if source is None:
        return "random weights"
    return f"output of stage {source.name}" if isinstance(source, StageOutput) else reward_name(source)


def kind_of(label: str, config: Any) -> Kind | None:
    """Return the kind of a stage: what its configuration says, else what its label names; None if it is none."""
    name = getattr(config, "stage", None) or label
    return kinds.named(name) if isinstance(name, str) and name in kinds.KINDS else None


def extra_of(label: str, kind: Kind, extra: Extra) -> GRPOExtraConfig | None:
    """Return the rewards and the sampling of a stage; None for a kind that does not sample."""
    if not kind.samples:
        return None
    return extra[label] if isinstance(extra, Mapping) else extra or GRPOExtraConfig()


def stages_of(
    configs: Mapping[str, Any],
    grpo_extra: Extra = None,
    only: Sequence[str] | None = None,
    outputs: Mapping[str, Path] | None = None,
    *,
    judged: bool = False,
    verifier: Any = None,
) -> list[Stage]:
    """Return the stages to run, in order: those named in `only`, or all.

    `outputs` are stages of an earlier run; `judged`: it has a reward model.

    Raises:
        Refused: with every problem of the recipe; if some are plain, with these alone.
    """
    stages = plainly_sound(configs, grpo_extra, only, outputs)
    problems = [f"{one.label}: {said}" for one in stages for said in one.kind.problems(one.config, one.extra)]
    problems += gates.problems(stages, judged, verifier)
    if problems:
        raise refusal(problems)
    return stages


def plainly_sound(
    configs: Mapping[str, Any],
    grpo_extra: Extra = None,
    only: Sequence[str] | None = None,
    outputs: Mapping[str, Path] | None = None,
) -> list[Stage]:
    """Return the stages to run, looked at as far as that takes no library, whose loading takes seconds.

    Raises:
        Refused: with every plain problem of the recipe.
    """
    problems = [*_shape(configs, grpo_extra), *_choice(configs, only)]
    stages: list[Stage] = []
    if not problems:
        every = [
            Stage(label, kind, config, extra_of(label, kind, grpo_extra))
            for label, config in configs.items()
            if (kind := kind_of(label, config))
        ]
        stages = [stage for stage in every if only is None or stage.label in only]
        problems += _directories(stages)
        problems += _adapters(stages)
        problems += _inputs([stage for stage in stages if not mistyped(stage.extra)], every, outputs or {})
        for stage in stages:
            problems += [f"{stage.label}: {one}" for one in stage.kind.plain_problems(stage.config, stage.extra)]
    try:
        trackers.requested()
    except Refused as error:
        problems.append(str(error))
    if problems:
        raise refusal(problems)
    return stages


def _shape(configs: Any, extra: Any) -> Iterator[str]:
    known = ", ".join(kinds.KINDS)
    if not isinstance(configs, Mapping) or not configs:
        yield f"it has no stages: give a dict with one or more of {known}; given: {values.shown(configs)}"
        return
    from_a_model, sampling = "", []
    for label, config in configs.items():
        kind, named = kind_of(label, config), getattr(config, "stage", None)
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            yield f"{values.shown(label)} is no label of a stage: letters, digits, _ and -, such as sft or code-2"
        elif kind is None:
            wrong = f"{label}: stage = {values.shown(named)}" if named else values.shown(label)
            near = did_you_mean(named if isinstance(named, str) else str(label), kinds.KINDS)
            way = "" if named else '. Under another label, stage= says the kind: TrainingConfig(stage="sft", …)'
            yield f"{wrong} is no kind of stage{near or '.'} Allowed: {known}{way}"
        elif not isinstance(config, kind.config_class):
            yield f"{label}: must be a {kind.config_class.__name__}; given: {values.shown(config)}"
        elif kind.starts_from_nothing and from_a_model:
            yield f"{label}: must come before {from_a_model}, since it starts from nothing"
        elif not kind.starts_from_nothing:
            from_a_model = from_a_model or label
        if kind is not None and kind.samples:
            sampling.append(label)
    extras = extra if isinstance(extra, Mapping) else {} if extra is None else {None: extra}
    for label, one in extras.items():
        if not isinstance(one, GRPOExtraConfig):
            yield f"grpo_extra: must be a GRPOExtraConfig, or one for each label; given: {values.shown(one)}"
        elif not sampling:
            yield "grpo_extra: nothing reads it, since the recipe has no stage that samples, such as grpo"
        elif label is not None and label not in sampling:
            near = did_you_mean(str(label), sampling) or "."
            yield f"grpo_extra: {values.shown(label)} is no stage that samples{near} There are: {', '.join(sampling)}"
    if isinstance(extra, Mapping) and set(extra) < set(sampling):
        lacks = [label for label in sampling if label not in extra]
        yield f"grpo_extra: {', '.join(lacks)} samples too: give every such stage its own, or one for all"


def _choice(configs: Any, only: Sequence[str] | None) -> Iterator[str]:
    for name, times in Counter(only or ()).items():
        if isinstance(configs, Mapping) and name not in configs:
            near = did_you_mean(str(name), map(str, configs))
            yield f"--stages {name}: the recipe has no such stage{near or '.'} It has: {', '.join(map(str, configs))}"
        elif times > 1:
            yield f"--stages names {name} {times} times: a stage runs once"
    if only is not None and not only:
        yield "--stages names no stage"


def _directories(stages: list[Stage]) -> Iterator[str]:
    taken: dict[str, str] = {}
    labels = {stage.label for stage in stages}
    for stage in stages:
        name = stage.config.output_dir
        if not isinstance(name, str) or not STAGE_DIR.fullmatch(name) or name in RESERVED:
            told = values.shown(name)
            yield f"{stage.label}: output_dir = {told}: must be the plain name of a directory in the run's"
            continue
        if hide(told := f"{stage.label}: output_dir = {name!r}") != told:  # no record could name it
            yield f"{told}: is, or looks like, a secret: name the stage and its directory otherwise"
        if name in labels - {stage.label}:  # RUN/NAME would mean two stages
            yield f"{stage.label}: output_dir = {name!r} is the label of another stage: name it otherwise"
        other = taken.setdefault(name.casefold(), stage.label)
        if other != stage.label:
            yield f"{stage.label}: output_dir = {name!r} is in use by {other}: each stage needs its own"


def _inputs(stages: list[Stage], every: list[Stage], outputs: Mapping[str, Path]) -> Iterator[str]:
    """Every StageOutput must name a stage of the right sort that runs earlier, or that ran in the earlier run."""
    chosen, scores = {stage.label for stage in stages}, {stage.label: stage.kind.scores for stage in every}
    order = list(scores)
    for stage in stages:
        wanted = [("model_name", stage.model, False), *(("reward_func", one, True) for one in stage.reward_models)]
        for field, ref, judges in wanted:
            if not isinstance(ref, StageOutput):
                continue
            said = f'{stage.label}: {field} = StageOutput("{ref.name}")'
            if ref.name not in order:
                near = did_you_mean(str(ref.name), order)
                yield f"{said}: the recipe has no such stage{near or '.'} It has: {', '.join(order)}"
            elif order.index(ref.name) >= order.index(stage.label):
                yield f"{said}: that stage does not run before {stage.label}; move it up, or name an earlier one"
            elif ref.name not in chosen and ref.name not in outputs:
                ran = f"; that run has: {', '.join(outputs)}" if outputs else ""
                yield f"{said} has not run: add {ref.name} to --stages, or name a run that has it with --from{ran}"
            elif judges != scores[ref.name]:
                sort = (
                    "a reward model, such as a stage of kind reward makes" if judges else "a policy, not a reward model"
                )
                yield f"{said}: must be {sort}"


def _adapters(stages: list[Stage]) -> Iterator[str]:
    """A stage that starts from an adapter which another keeps must train it on as it is."""
    keeping = {one.label: one.config for one in stages if getattr(one.config, "merge_adapter", True) is False}
    by_label = {one.label: one for one in stages}
    for stage in stages:
        name = stage.model.name if isinstance(stage.model, StageOutput) else ""
        while (source := by_label.get(name)) and name not in keeping and source.config.on_fail == "input":
            name = source.model.name if isinstance(source.model, StageOutput) else ""  # what it gets if a gate fails
        config = keeping.get(name)
        if config is None:
            continue
        starts = f"{stage.label}: starts from the adapter that {name} keeps (merge_adapter=False)"
        if stage.config.peft is None:
            yield (
                f"{starts}, and trains all weights: set peft='lora' (or 'qlora') in {stage.label} to train the adapter"
                f" on, or leave out merge_adapter in {name}"
            )
        elif stage.config.peft_args and config.peft_args and stage.config.peft_args != config.peft_args:
            yield f"{starts}: its peft_args must be those of {name}, {values.shown(config.peft_args)}, or be left out"
