from collections.abc import Callable, Mapping
from typing import Any

import pytest

from utils.values import parse, shown, type_problem


class Sullen:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


UNWRITABLE: dict[str, tuple[Callable[[], object], str]] = {
    "thousands of digits": (lambda: 10**5000, "int"),
    "and in a list": (lambda: [-(10**5000)], "list"),
    "lists in lists": (deep, "list"),
    "an object of its own will": (Sullen, "Sullen"),
}


def test_a_value_is_shown_as_python_writes_it() -> None:
    assert shown({"a": [1, "b"]}) == "{'a': [1, 'b']}"
    assert shown("a" * 200, 5) == "'aaa…"


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_named_by_its_type(case: str) -> None:
    make, kind = UNWRITABLE[case]
    assert shown(make()) == f"<{kind} that cannot be written>"
    assert f"must be str, not {'an integer of more than' if kind == 'int' else kind}" in str(
        type_problem("a", make(), str)
    )


def test_an_object_with_a_key_twice_is_refused_with_the_key() -> None:
    with pytest.raises(ValueError, match="the key 'adam_beta1' stands twice"):
        parse('{"adam_beta1": 0.5, "adam_beta1": 0.9}', Mapping[str, Any])


def test_text_that_looks_like_an_object_with_a_key_twice_is_text_where_text_may_stand() -> None:
    text = '{"a": 1, "a": 2}'
    assert parse(text, str | None) == text
