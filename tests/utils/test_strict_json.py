import json
import time

import pytest

from utils import strict_json
from utils.strict_json import KeyTwice, Reader, parts


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]', '{"a": [], "a": {"x": 1}}'])
def test_a_key_that_stands_twice_is_refused_wherever_it_stands(text: str) -> None:
    with pytest.raises(KeyTwice, match="the key 'a' stands twice in one object"):
        strict_json.read(text)


def test_one_key_in_several_objects_stands_once_in_each() -> None:
    assert strict_json.read('[{"a": {"a": 1}}, {"a": 2}]') == [{"a": {"a": 1}}, {"a": 2}]


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "", '{"a": }'])
def test_what_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as said:
        strict_json.read(text)
    assert not isinstance(said.value, KeyTwice)
    assert strict_json.reason(said.value)


def test_of_a_list_the_items_with_a_key_twice_are_told_from_the_others() -> None:
    reader = Reader()
    items = reader.read('[{"a": 1}, {"b": 1, "b": 2}, {"a": {"c": 1, "c": 2}}]')
    assert [bool(reader.repeated(item)) for item in items] == [False, True, True]
    assert reader.repeated(reader.read('{"a": 1}')) is None


def test_brackets_that_the_decoder_has_room_for_are_walked_through() -> None:
    deep = '{"a": 1, "a": 2, "deep": ' + "[" * 900 + "]" * 900 + "}"
    with pytest.raises(KeyTwice):
        strict_json.read(deep)
    assert sum(1 for _ in parts(json.loads(deep))) == 1 + 2 + 1 + 900


def test_keys_and_values_are_walked_through_in_order() -> None:
    assert list(parts({"a": [1, {"b": None}], "c": 2})) == [
        {"a": [1, {"b": None}], "c": 2}, "a", [1, {"b": None}], 1, {"b": None}, "b", None, "c", 2,
    ]  # fmt: skip


def test_many_keys_that_stand_twice_take_a_time_in_proportion() -> None:
    turn = '{"role": "user", "role": "user"}'
    text = "[" + ", ".join([f"[{', '.join([turn] * 6)}]", '[{"role": "user"}]'] * 12_000) + "]"
    began = time.process_time()
    reader = Reader()
    assert sum(bool(reader.repeated(item)) for item in reader.read(text)) == 12_000
    assert time.process_time() - began < 5  # a look at every other object for each takes minutes
