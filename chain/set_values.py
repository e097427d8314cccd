"""Values of a recipe changed from the command line: `--set stage.field=value` and `--seed`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_origin, get_type_hints

from algorithms.config import GRPOExtraConfig, StageOutput
from utils import strict_json
from utils.errors import Refused, did_you_mean
from utils.secrets import HIDDEN, SECRET_NAME
from utils.strict_json import KeyTwice
from utils.values import UNREAD, parse

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

    A field of GRPOExtraConfig is one of the stage grpo: `grpo.num_generations=8`; one option of a mapping is set by its
    name, such as `sft.trainer_args.NAME=value`. The field's annotation says how the text is read.

    Raises:
        Refused: with every assignment that cannot be made.
    """
    problems, changed = [], dict(configs)
    for assignment in assignments:
        try:
            changed, grpo_extra = _with_value(changed, grpo_extra, assignment)
        except ValueError as error:
            name = assignment.partition("=")[0]
            told = f"{name}={HIDDEN}" if SECRET_NAME.search(name.rpartition(".")[2]) else assignment
            problems.append(f"--set {told}: {error}")
    if problems:
        raise Refused("\n".join(problems))
    return changed, grpo_extra


def recorded_values(record: Mapping[str, Any], asked: Sequence[str]) -> list[str]:
    """Return what was set in a run that is resumed, but for what is `asked` anew.

    Raises:
        Refused: a value held a secret, which is on no record, and is not asked for anew.
    """
    anew = {assignment.partition("=")[0].strip() for assignment in asked}
    kept = [value for value in record["values"] if value.partition("=")[0].strip() not in anew]
    if lost := [value for value in kept if HIDDEN in value]:
        raise Refused(
            f"the run was given a secret, which is on no record: add --set {lost[0]} with it in place of {HIDDEN}"
        )
    return kept


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
    hints = get_type_hints(type(config))
    if field not in known or (option and get_origin(hints.get(field)) is not Mapping):
        raise ValueError(f"there is no field {field!r}{did_you_mean(field, known) or '.'} Fields: {', '.join(known)}")
    if option in known:
        raise ValueError(f"{option} is a field of the stage: leave out `{field}.`")
    if option:
        try:
            value = strict_json.read(text)
        except KeyTwice:
            raise
        except ValueError:
            value = text
        return replace(config, **{field: {**getattr(config, field), option: value}})
    return replace(config, **{field: parse(text, hints[field], _read_stage_output)})


def _read_stage_output(text: str, allowed: tuple[Any, ...]) -> Any:
    named = re.fullmatch(r"""StageOutput\(["']?(\w+)["']?\)""", text)
    return StageOutput(named[1]) if named and StageOutput in allowed else UNREAD
