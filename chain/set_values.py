"""Values of a recipe changed from the command line: `--set label.field=value` and `--seed`."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_origin, get_type_hints

from algorithms.config import GRPOExtraConfig
from chain.stages import Extra, kind_of
from kinds import StageOutput
from utils import strict_json
from utils.errors import Refused, did_you_mean
from utils.secrets import HIDDEN, SECRET_NAME
from utils.strict_json import KeyTwice
from utils.values import UNREAD, parse

Configs = Mapping[str, Any]


def seeds(configs: Configs, seed: int) -> list[str]:
    """Return the assignments that give every stage this seed."""
    return [f"{label}.seed={seed}" for label, config in configs.items() if _has_seed(config)]


def _has_seed(config: Any) -> bool:
    """Tell a configuration from the wrong thing in a recipe, which is refused later, with all its other problems."""
    return is_dataclass(config) and not isinstance(config, type) and "seed" in _names(config)


def with_values(configs: Configs, grpo_extra: Extra, assignments: Sequence[str]) -> tuple[dict[str, Any], Extra]:
    """Return a recipe's stages, their rewards and sampling, with values replaced, each given as `label.field=value`.

    A field of GRPOExtraConfig is one of each stage that samples: `grpo.num_generations=8`; one option of a mapping is
    set by its name, such as `sft.trainer_args.NAME=value`. The field's annotation says how the text is read.

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
            f"the run was given what is or looks like a secret, on no record. Give it anew in place of {HIDDEN}:\n"
            + "\n".join(f"  --set {shlex.quote(value)}" for value in lost)
        )
    return kept


def _with_value(configs: dict[str, Any], extra: Extra, assignment: str) -> tuple[dict[str, Any], Extra]:
    target, equals, text = assignment.partition("=")
    label, dot, field = target.strip().partition(".")
    if not equals or not dot:
        raise ValueError("must be LABEL.FIELD=VALUE, such as sft.learning_rate=1e-5")
    config = configs.get(label)
    if not is_dataclass(config) or isinstance(config, type):
        near = did_you_mean(label, map(str, configs))
        raise ValueError(f"the recipe has no stage {label!r}{near or '.'} It has: {', '.join(map(str, configs))}")
    sampling = [name for name, one in configs.items() if (kind := kind_of(name, one)) and kind.samples]
    own = None
    if label in sampling:
        own = extra.get(label) if isinstance(extra, Mapping) else extra or GRPOExtraConfig()
    if not isinstance(own, GRPOExtraConfig):  # what it is instead is refused later, with all other problems
        return configs | {label: _changed(config, field, text.strip(), _names(config))}, extra
    known = [*_names(config), *_names(own)]
    if field not in _names(own):
        return configs | {label: _changed(config, field, text.strip(), known)}, extra
    changed = _changed(own, field, text.strip(), known)
    if sampling == [label] and not isinstance(extra, Mapping):
        return configs, changed
    others = extra if isinstance(extra, Mapping) else dict.fromkeys(sampling, extra or GRPOExtraConfig())
    return configs, {**others, label: changed}


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
    named = re.fullmatch(r"""StageOutput\(["']?([\w-]+)["']?\)""", text)
    return StageOutput(named[1]) if named and StageOutput in allowed else UNREAD
