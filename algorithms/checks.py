"""Everything that is wrong with a stage's configuration, found before anything starts and told at once."""

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import kinds
from algorithms import adapter_checks, arguments, rewards
from algorithms.config import GRPOExtraConfig, TrainingConfig
from utils.errors import did_you_mean
from utils.values import mistyped, shown, type_problem

if TYPE_CHECKING:
    from algorithms.trl_kind import TrlKind

Rule = tuple[Callable[[Any], bool], str]

ABOVE_0: Rule = (lambda value: value > 0, "above 0")
AT_LEAST_0: Rule = (lambda value: value >= 0, "0 or more")
AT_LEAST_1: Rule = (lambda value: value >= 1, "1 or more")
AT_LEAST_2: Rule = (lambda value: value >= 2, "2 or more")
COUNTABLE: Rule = (lambda value: 0 < value < 2**31, "above 0 and less than 2**31")
"""A limit of ours, beyond any run: epochs × steps of one stay an integer of 64 bits; 1e308 × 10 is infinite."""
NOT_EMPTY: Rule = (lambda value: value != "", "given")

RULES: dict[str, Rule] = {
    "model_name": NOT_EMPTY,
    "output_dir": NOT_EMPTY,
    "dataset_name": NOT_EMPTY,
    "eval_fraction": (lambda value: 0 < value < 1, "between 0 and 1"),
    "eval_samples": AT_LEAST_1,
    "max_samples": AT_LEAST_1,
    "max_dropped_fraction": (lambda value: 0 <= value <= 1, "0 to 1"),
    "peft": (lambda value: value in ("lora", "qlora"), "lora or qlora"),
    "dtype": (lambda value: value in ("float32", "bfloat16", "float16", "auto"), "float32, bfloat16, float16 or auto"),
    "learning_rate": ABOVE_0,
    "num_train_epochs": COUNTABLE,
    "max_steps": AT_LEAST_1,
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "max_length": AT_LEAST_2,  # a row of one token predicts nothing
    "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "max_grad_norm": AT_LEAST_0,
    "logging_steps": ABOVE_0,
    "save_steps": ABOVE_0,
    "save_total_limit": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "seed": (lambda value: 0 <= value < 2**32, "0 or more and less than 2**32"),
    "beta": AT_LEAST_0,
    "label_smoothing": (lambda value: 0 <= value < 0.5, "0 or more and less than 0.5"),
    "label_smoothing_factor": (lambda value: 0 <= value < 1, "0 or more and less than 1"),
    "center_rewards_coefficient": AT_LEAST_0,
    "temperature": ABOVE_0,
    "top_k": AT_LEAST_0,
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "num_iterations": AT_LEAST_1,
    "num_generations": AT_LEAST_2,
    "max_completion_length": AT_LEAST_1,
    "preflight_prompts": AT_LEAST_0,
    "dynamic_sampling": AT_LEAST_0,
}

OURS_IN_SAMPLING = ("preflight_prompts", "dynamic_sampling")
"""Fields of GRPOExtraConfig that are no option of TRL's."""


def check(kind: str, config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> list[str]:
    """Return every problem of a stage's configuration, one line each; an empty list means that it can start.

    `kind` is the name of one; `extra` belongs to a kind that samples. Models and data are not looked at: whether they
    exist is the concern of whoever loads them.
    """
    if kind not in kinds.KINDS:
        known = ", ".join(kinds.KINDS)
        return [f"{kind!r} is no kind of stage{did_you_mean(kind, kinds.KINDS) or '.'} Allowed: {known}"]
    return [f"{kind}: {problem}" for problem in kinds.named(kind).problems(config, extra)]


def problems(kind: "TrlKind", config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> list[str]:
    """Return every problem of the configuration of a kind over TRL's trainers."""
    extra = (extra or GRPOExtraConfig()) if kind.samples else None
    wrong_types = mistyped(config) | (mistyped(extra) if extra else {})
    found = plain_problems(config, extra)
    if "trainer_args" not in wrong_types:
        well_typed = _well_typed(extra, wrong_types)
        found += [*_trainer_args(kind, config, well_typed), *_lacking_fields(kind, config)]
        found += _no_choices(kind, config, well_typed)
    if not wrong_types.keys() & {"peft", "peft_args", "merge_adapter", "trainer_args"}:
        found += adapter_checks.problems(kind, config)
    if extra and not wrong_types.keys() & {"reward_func", "reward_weights"}:
        found += rewards.problems(extra)
    return found or kind.problems_together(config, extra) or _refused_by_trl(kind, config, extra)


def plain_problems(config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> list[str]:
    """Return what is wrong with types and ranges, which needs no library."""
    wrong_types = mistyped(config) | (mistyped(extra) if extra else {})
    if "trainer_args" in wrong_types:
        return list(wrong_types.values())
    return [*wrong_types.values(), *_ranges(config, _well_typed(extra, wrong_types), wrong_types)]


def _well_typed(extra: GRPOExtraConfig | None, wrong_types: Mapping[str, str]) -> GRPOExtraConfig | None:
    return replace(extra, reward_weights=None) if extra and "reward_weights" in wrong_types else extra


def _trainer_args(kind: "TrlKind", config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
    cls = kind.args_class()
    hints = get_type_hints(cls)
    own = arguments.trainer_fields(config) | arguments.extra_fields(extra)
    elsewhere = {"reward_funcs": "reward_func of GRPOExtraConfig"} if extra else {}
    elsewhere |= {name: "field of GRPOExtraConfig" for name in OURS_IN_SAMPLING if extra}
    problems = []
    for name, value in config.trainer_args.items():
        if name in arguments.OURS:
            problems.append(f"trainer_args: {name} cannot be set: {arguments.OURS[name]}")
        elif name in own:
            problems.append(
                f"trainer_args: {name} = {shown(value)} is set twice: field {name} is {shown(own[name])}; drop one"
            )
        elif name in arguments.NOT_FOR_THE_TRAINER or name in elsewhere:
            where = elsewhere.get(name, "field of TrainingConfig")
            problems.append(f"trainer_args: {name} belongs outside trainer_args: it is a {where}")
        elif name not in hints:
            near = did_you_mean(name, hints)
            problems.append(f"trainer_args: {name!r} is no option of TRL's {cls.__name__}{near}")
        elif problem := type_problem(name, value, hints[name]):
            problems.append(f"trainer_args: {problem}")
    sampling = config.trainer_args.get("generation_kwargs")
    for name in sampling if isinstance(sampling, Mapping) else ():
        if name not in _options_of_sampling():
            near = did_you_mean(str(name), _options_of_sampling()) or "."
            problems.append(f"trainer_args: generation_kwargs: {name!r} is no option of GenerationConfig{near}")
    loading = config.trainer_args.get("model_init_kwargs")
    for name in ("dtype", "attn_implementation", "revision"):
        if isinstance(loading, Mapping) and name in loading:
            problems.append(f"trainer_args: model_init_kwargs: {name} is a field of TrainingConfig: set it there")
    for name, reason in arguments.OURS_IN_LOADING.items():
        if isinstance(loading, Mapping) and name in loading:
            problems.append(f"trainer_args: model_init_kwargs: {name} cannot be set: {reason}")
    return problems


def _options_of_sampling() -> list[str]:
    from transformers import GenerationConfig

    return [name for name in vars(GenerationConfig()) if not name.startswith("_")]


def _lacking_fields(kind: "TrlKind", config: TrainingConfig) -> list[str]:
    cls = kind.args_class()
    known = {field.name for field in fields(cls)}
    return [
        f"{name} = {shown(value)}: {kind.name} has no such option (TRL's {cls.__name__} lacks it); leave it out"
        for name, value in arguments.trainer_fields(config).items()
        if name not in known
    ]


def _ranges(config: TrainingConfig, extra: GRPOExtraConfig | None, wrong_types: Mapping[str, str]) -> list[str]:
    owners: list[Any] = [config] if extra is None else [extra, config]
    values = {field.name: getattr(owner, field.name) for owner in owners for field in fields(owner)}
    values |= arguments.given(config, extra)
    problems = []
    for name, rule in RULES.items():
        value = values.get(name)
        if name not in wrong_types and isinstance(value, int | float | str) and not _within(value, rule):
            problems.append(f"{name} = {shown(value)}: must be {rule[1]}")
    for name, value in arguments.given(config, extra).items():
        listed = value if isinstance(value, list | tuple) else [value]
        if name not in RULES and any(isinstance(one, float) and not math.isfinite(one) for one in listed):
            problems.append(f"{name} = {shown(value)}: must be finite")
    return problems


def _no_choices(kind: "TrlKind", config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
    """Return what is none of the names that the trainer knows for an option, such as those of the schedules."""
    hints, problems = get_type_hints(kind.args_class()), []
    for name, value in arguments.given(config, extra).items():
        parts = (hints.get(name), *get_args(hints.get(name)))
        known = [str(one.value) for part in parts if isinstance(part, type) and issubclass(part, Enum) for one in part]
        if known and isinstance(value, str) and value not in known:
            near = did_you_mean(value, known)
            problems.append(f"{name} = {shown(value)}: must be one of {', '.join(known)}{near}")
    return problems


def _within(value: int | float | str, rule: Rule) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    try:
        return bool(rule[0](value))
    except TypeError:  # a mistyped entry of trainer_args, which has been reported as such
        return True


def _refused_by_trl(kind: "TrlKind", config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
    """What only TRL's and transformers' own validation knows: names of optimizers, combinations of options."""
    options = arguments.resolve(config, extra, Path(tempfile.gettempdir()) / "never-written")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TRL's own defaults; the stage's training.log gets them
            kind.args_class()(**options)
    except (ValueError, TypeError, KeyError, NotImplementedError, ImportError, OSError) as error:
        return [" ".join(str(error).split())]
    return []
