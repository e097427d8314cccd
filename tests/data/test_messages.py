"""Turns in every dialect become the messages that chat templates take."""

import pytest

from data.messages import Malformed, conversation, tool_schemas, without_padding

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def test_sharegpt_turns_become_messages() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "1 + 1?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "Two."},
    ]
    assert conversation(turns) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]


@pytest.mark.parametrize("call", [CALL, CALL["function"], {"name": "add", "arguments": '{"a": 1}'}])
def test_tool_calls_take_one_form(call: object) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert conversation([turn]) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "a list of messages was expected, not 'hello'"),
        ([], "a list of messages"),
        (["hello"], "role and content"),
        ([{"role": "robot", "content": "hi"}], "the role 'robot' is none of"),
        ([{"content": "hi"}], "the role None"),
        ([{"role": "user", "content": None}], "content of a turn of .user. must be text, not None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content of a turn of .user. must be text"),
        ([{"from": "function_call", "value": "add(1)"}], "should be JSON"),
        ([{"from": "function_call", "value": "[1]"}], "has a name and arguments, not 1"),
        ([{"from": "function_call", "value": '{"name": ""}'}], "has a name and arguments"),
        (
            [{"from": "function_call", "value": '{"name": "add", "arguments": [1]}'}],
            r"arguments are an object, not \[1\]",
        ),
        ([{"from": "function_call", "value": '{"name": "add", "arguments": "3"}'}], "arguments are an object, not 3"),
        ([{"from": "function_call", "value": 100_000 * "["}], "should be JSON, not .*maximum recursion"),
        ([{"from": "function_call", "value": 5000 * "9"}], "should be JSON, not .*Exceeds the limit"),
    ],
)
def test_what_is_no_conversation_is_named(value: object, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        conversation(value)


@pytest.mark.parametrize("tools", [[{"name": "add"}], '[{"name": "add"}]', ['{"name": "add"}']])
def test_tools_become_function_schemas(tools: object) -> None:
    assert tool_schemas(tools) == [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_are_none(tools: object) -> None:
    assert tool_schemas(tools) is None


UNTOLD = {"type": "function", "function": {"description": "adds"}}


@pytest.mark.parametrize(
    "tools",
    [
        "add", {"name": "add"}, [3], [{"description": "adds"}], [{"name": 3}], [{"name": ""}], [UNTOLD],
        [{"function": "add"}], [{"name": "add", "parameters": "a, b"}], 100_000 * "[", "[" + 5000 * "9" + "]",
    ],
)  # fmt: skip
def test_what_is_no_list_of_schemas_is_named(tools: object) -> None:
    with pytest.raises(Malformed, match="tool"):
        tool_schemas(tools)


def test_padding_that_arrow_adds_is_dropped_at_every_depth() -> None:
    assert without_padding({"a": [{"b": None, "c": 0}], "d": None}) == {"a": [{"c": 0}]}
