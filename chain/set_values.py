"""Values of a recipe changed from the command line: `--set stage.field=value` and `--seed`."""

import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from algorithms.config import GRPOExtraConfig, StageOutput
from utils.errors import Refused, did_you_mean

Configs = Mapping[str, Any]


def seeds(configs: Configs, seed: int) -> list[str]:
    """Return the assignments that give every stage this seed."""
    return [f"{name}.seed={seed}" for name, config in configs.items() if _has_seed(config)]


def _has_seed(config: Any) -> bool:
    """Tell a configuration from the wrong thing in a recipe, which is refused later, with all its other problems."""
    return is_dataclass(config) and not isinstance(config, type) and "seed" in _names(config)


def with_values(
    configs: Configs, grpo_extra: GRPOExtraConfig | None, assignments: Sequence[str]
) -> tuple[dict[str, Any], GRPOExtraConfig | None]:
    """Return a recipe's stages, and what GRPO needs besides, with values replaced, each given as `stage.field=value`.

    A field of GRPOExtraConfig is one of the stage grpo: `grpo.num_generations=8`; one option of the trainer is set by
    `sft.trainer_args.NAME=value`. The field's annotation says how the text is read.

    Raises:
        Refused: with every assignment that cannot be made.
    """
    problems, changed = [], dict(configs)
    for assignment in assignments:
        try:
            changed, grpo_extra = _with_value(changed, grpo_extra, assignment)
        except ValueError as error:
            problems.append(f"--set {assignment}: {error}")
    if problems:
        raise Refused("\n".join(problems))
    return changed, grpo_extra


def _with_value(
    configs: dict[str, Any], grpo_extra: GRPOExtraConfig | None, assignment: str
) -> tuple[dict[str, Any], GRPOExtraConfig | None]:
    target, equals, text = assignment.partition("=")
    stage, dot, field = target.strip().partition(".")
    if not equals or not dot:
        raise ValueError("must be STAGE.FIELD=VALUE, such as sft.learning_rate=1e-5")
    config = configs.get(stage)
    if not is_dataclass(config) or isinstance(config, type):
        near = did_you_mean(stage, configs)
        raise ValueError(f"the recipe has no stage {stage!r}{near or '.'} It has: {', '.join(configs)}")
    extra = (grpo_extra or GRPOExtraConfig()) if stage == "grpo" else None
    owner = extra if extra is not None and field in _names(extra) else config
    changed = _changed(owner, field, text.strip(), [*_names(config), *(_names(extra) if extra else [])])
    return (configs, changed) if owner is extra else (configs | {stage: changed}, grpo_extra)


def _names(config: Any) -> list[str]:
    return [field.name for field in fields(config)]


def _changed(config: Any, field: str, text: str, known: list[str]) -> Any:
    field, _, option = field.partition(".")
    if field not in known or (option and field != "trainer_args"):
        raise ValueError(f"there is no field {field!r}{did_you_mean(field, known) or '.'} Fields: {', '.join(known)}")
    if option in known:
        raise ValueError(f"{option} is a field of the stage: leave out `trainer_args.`")
    if option:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        return replace(config, trainer_args={**config.trainer_args, option: value})
    return replace(config, **{field: parse(text, get_type_hints(type(config))[field])})


def parse(text: str, annotation: Any) -> Any:
    """Return `text` as a value of the annotated type.

    >>> parse("1e-5", float | None), parse("none", float | None)
    (1e-05, None)

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    from algorithms.checks import describe, matches

    allowed = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for read in (_read_none, _read_bool, _read_number, _read_stage_output, _read_json):
        value = read(text, allowed)
        if value is not _UNREAD and matches(value, annotation):
            return value
    if str in allowed:
        return text
    raise ValueError(f"must be {describe(annotation)}, not {text!r}")


_UNREAD = object()


def _read_none(text: str, allowed: tuple[Any, ...]) -> Any:
    return None if text.lower() in ("none", "null") and type(None) in allowed else _UNREAD


def _read_bool(text: str, allowed: tuple[Any, ...]) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _UNREAD) if bool in allowed else _UNREAD


def _read_number(text: str, allowed: tuple[Any, ...]) -> Any:
    for kind in (int, float):
        if kind in allowed:
            try:
                value = kind(text)
            except ValueError:
                continue
            if math.isfinite(value):
                return value
    return _UNREAD


def _read_stage_output(text: str, allowed: tuple[Any, ...]) -> Any:
    named = re.fullmatch(r"""StageOutput\(["']?(\w+)["']?\)""", text)
    return StageOutput(named[1]) if named and StageOutput in allowed else _UNREAD


def _read_json(text: str, _allowed: tuple[Any, ...]) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return _UNREAD
    return value if isinstance(value, dict | list) else _UNREAD
