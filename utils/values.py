"""Values and the annotated fields they are for: whether one fits, what is allowed, and reading one from text."""

import math
import types
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from functools import wraps
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from utils import strict_json
from utils.errors import Refused, did_you_mean, plain_endings
from utils.strict_json import KeyTwice

Reader = Callable[[str, tuple[Any, ...]], Any]
"""Takes the text and the types allowed; returns the value, or UNREAD."""


class UnknownField(Refused, TypeError):
    """A name that is given to a dataclass and is no field of it."""


Config = TypeVar("Config")


def with_known_fields(cls: type[Config]) -> type[Config]:
    """Let a dataclass refuse a name that is no field with the nearest one, also in a script that is run by itself."""
    init, known = cls.__init__, [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @wraps(init)
    def checked(self: Config, *given: Any, **named: Any) -> None:
        for name in (one for one in named if one not in known):
            plain_endings()
            near = did_you_mean(name, known) or "."
            raise UnknownField(f"{cls.__name__} has no field {name!r}{near} Fields: {', '.join(known)}")
        init(self, *given, **named)

    cls.__init__ = checked  # type: ignore[method-assign,assignment]
    return cls


def parse(text: str, annotation: Any, *readers: Reader) -> Any:
    """Return `text` as a value of the annotated type; `readers` read what is not of Python's own types.

    >>> parse("1e-5", float | None), parse("none", float | None)
    (1e-05, None)

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    allowed = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for read in (_read_none, _read_bool, _read_number, *readers, _read_json):
        value = read(text, allowed)
        if value is not UNREAD and matches(value, annotation):
            return value
    if str in allowed:
        return text
    raise ValueError(f"must be {describe(annotation)}, not {text!r}")


def shown(value: object, most: int = 100) -> str:
    """Return a value as Python writes it, cut off after `most` characters; what cannot be written is named by its type.

    >>> shown("a"), shown(10**5000)
    ("'a'", '<int that cannot be written>')
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  thousands of digits, lists in lists, whatever a recipe's own object raises
        return f"<{type(value).__name__} that cannot be written>"
    return text if len(text) <= most else f"{text[: most - 1]}…"


UNREAD = object()
"""What a reader returns for text that is not its own."""


def _read_none(text: str, allowed: tuple[Any, ...]) -> Any:
    return None if text.lower() in ("none", "null") and type(None) in allowed else UNREAD


def _read_bool(text: str, allowed: tuple[Any, ...]) -> Any:
    return {"true": True, "false": False}.get(text.lower(), UNREAD) if bool in allowed else UNREAD


def _read_number(text: str, allowed: tuple[Any, ...]) -> Any:
    for kind in (int, float):
        if kind in allowed:
            try:
                value = kind(text)
            except ValueError:
                continue
            if kind is int or math.isfinite(value):
                return value
    return UNREAD


def _read_json(text: str, allowed: tuple[Any, ...]) -> Any:
    try:
        value = strict_json.read(text)
    except ValueError as error:
        if isinstance(error, KeyTwice) and str not in allowed:
            raise
        return UNREAD
    return value if isinstance(value, dict | list) else UNREAD


def mistyped(config: Any) -> dict[str, str]:
    """Return what is wrong with the type of each value of a dataclass, by the field's name."""
    hints = get_type_hints(type(config))
    problems = {name: type_problem(name, getattr(config, name), hints[name]) for name in hints}
    return {name: problem for name, problem in problems.items() if problem is not None}


def type_problem(name: str, value: Any, annotation: Any) -> str | None:
    """Return what is said of a value that may not stand where `annotation` does; None if it may."""
    if matches(value, annotation):
        return None
    given = "an integer of more than 64 bits" if _is_int(value) and not _in_64_bits(value) else type(value).__name__
    return f"{name} = {shown(value)}: must be {describe(annotation)}, not {given}"


def matches(value: Any, annotation: Any) -> bool:
    """Return whether `value` may be given where `annotation` stands.

    An int is a float, and has 64 bits at most; a bool is neither. A name stands for a member of an enumeration, one
    string for a list of them.
    """
    if annotation is Any:
        return True
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(matches(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, Sequence):
        if isinstance(value, str):
            return str in parts
        return isinstance(value, list | tuple) and all(matches(item, part) for item in value for part in parts)
    if origin is not None:
        return isinstance(value, origin)
    if annotation is float:
        return isinstance(value, float) or (_is_int(value) and _in_64_bits(value))
    if annotation is int:
        return _is_int(value) and _in_64_bits(value)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return isinstance(value, str)
    return isinstance(value, annotation)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _in_64_bits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def describe(annotation: Any) -> str:
    """Return an annotation in words: `int or None`, `list of str`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (list, Sequence):
        return f"list of {describe(parts[0])}"
    if origin is not None:
        return str(origin.__name__).lower().replace("dict", "mapping")
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(repr(member.value) for member in annotation)
    return str(getattr(annotation, "__name__", annotation))


def field_type(config: type, name: str) -> Any:
    """Return the annotation of a dataclass's field.

    Raises:
        ValueError: there is no such field; the message names the nearest.
    """
    hints = get_type_hints(config)
    if name not in hints:
        raise ValueError(f"there is no field {name!r}{did_you_mean(name, hints) or '.'} Fields: {', '.join(hints)}")
    return hints[name]
