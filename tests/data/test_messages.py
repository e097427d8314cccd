"""Turns in every dialect become the messages that chat templates take."""

from typing import Any

import pytest

from data.messages import Malformed, conversation, says_nothing, tool_schemas, unread_keys, without_padding

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
        ([{"role": "user", "content": [{"type": "image"}]}], "content of a turn of .user. has a part that is no text"),
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


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be brief."}),
        ({"role": " User", "content": "hi"}, {"role": "user", "content": "hi"}),
        ({"role": "ASSISTANT", "content": "hi"}, {"role": "assistant", "content": "hi"}),
        ({"role": "ipython", "content": "4"}, {"role": "tool", "content": "4"}),
        (
            {"role": "function", "name": "add", "content": {"sum": "Σ 4"}},
            {"role": "tool", "content": '{"sum": "Σ 4"}', "name": "add"},
        ),
        (
            {"role": "tool", "content": [1, {"a": None}], "tool_call_id": "c1"},
            {"role": "tool", "content": '[1, {"a": null}]', "tool_call_id": "c1"},
        ),
        ({"role": "tool", "content": [{"type": "text", "text": "4"}]}, {"role": "tool", "content": "4"}),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "id": "c1"}]},
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "c1"}]},
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": " 0."}]},
            {"role": "user", "content": "Say 0."},
        ),
        ({"role": "user", "content": [{"text": "One."}, "Two."]}, {"role": "user", "content": "One.\nTwo."}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        ({"role": None, "content": None, "from": "human", "value": "hi"}, {"role": "user", "content": "hi"}),
        ({"role": "prompter", "content": [{"type": "input_text", "text": "hi"}]}, {"role": "user", "content": "hi"}),
        ({"role": "environment", "content": 42}, {"role": "tool", "content": "42"}),
        ({"role": "tool", "content": []}, {"role": "tool", "content": "[]"}),
        (
            {"role": "tool", "content": {"type": "car", "text": "red"}, "tool_use_id": 7},
            {"role": "tool", "content": '{"type": "car", "text": "red"}', "tool_call_id": "7"},
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": 7, "name": "add", "input": {"a": 1}}]},
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "7"}]},
        ),
        (
            {
                "from": "function_call",
                "value": '{"name": "add", "parameters": {"a": 1}}',
                "weight": 0,
                "thinking": "hm",
            },
            {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0, "reasoning_content": "hm"},
        ),
        (
            {"role": "assistant", "content": "hi", "thinking": "", "loss": False},
            {"role": "assistant", "content": "hi", "weight": 0},
        ),
    ],
)
def test_what_turns_really_look_like(turn: dict[str, Any], message: dict[str, Any]) -> None:
    assert conversation([turn]) == [message]


THOUGHT = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}


@pytest.mark.parametrize(
    "turn",
    [
        THOUGHT,
        {"role": "assistant", "content": "4", "thinking": "2 and 2", "reasoning": "2 and 2"},
        {"from": "gpt", "value": "4", "reasoning": "2 and 2"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "2 and 2"}, {"type": "text", "text": "4"}]},
        {"role": "assistant", "content": "<think>\n2 and 2\n</think>\n\n4", "reasoning_content": "2 and 2"},
        {
            "role": "assistant",
            "content": "4",
            "reasoning": "2 and 2",
            "reasoning_details": [{"type": "reasoning.text", "text": "2 and 2"}],
        },
    ],
)
def test_what_is_thought_before_an_answer_is_kept(turn: dict[str, Any]) -> None:
    assert conversation([turn]) == [THOUGHT]


def test_a_turn_of_thoughts_alone_is_an_answer() -> None:
    turn = {"role": "assistant", "content": None, "reasoning_content": "2 and 2"}
    assert conversation([turn]) == [THOUGHT | {"content": ""}]
    assert not says_nothing(conversation([turn]))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "user", "content": "?", "reasoning_content": "hm"}, "thoughts that are not the assistant's"),
        ({**THOUGHT, "thinking": "another"}, "two different thoughts of a turn"),
        ({**THOUGHT, "content": "<think>another</think>4"}, "two different thoughts of a turn"),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "4"}, {"type": "thinking", "thinking": "hm"}]},
            "thoughts after the answer",
        ),
        ({"role": "user", "from": "gpt", "content": "hi"}, "a turn that says two things"),
        ({"role": "user", "content": "hi", "value": "ho"}, "a turn that says two things"),
        ({"role": "user", "content": "hi", "tool_calls": [CALL]}, "function calls that do not parse"),
        (
            {"role": "assistant", "tool_calls": [{"name": "add", "kwargs": {"a": 1}}]},
            "function calls that do not parse",
        ),
        ({**THOUGHT, "reasoning_content": {"a": 1}}, "content that is no text"),
        ({"role": "assistant", "content": "4", "weight": 0.5}, "a weight but 0 or 1"),
        ({"role": "assistant", "content": "4", "weight": "0"}, "a weight but 0 or 1"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "content that is no text"),
    ],
)
def test_what_a_turn_cannot_say_has_a_reason(turn: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed) as error:
        conversation([turn])
    assert error.value.reason == reason


@pytest.mark.parametrize("key", ["weight", "train"])
def test_a_turn_that_is_not_to_be_learnt_says_so(key: str) -> None:
    turns = [{"role": "assistant", "content": "4", key: value} for value in (0, 1, None, False, True)]
    assert [turn.get("weight") for turn in conversation(turns)] == [0, None, None, 0, None]
    assert says_nothing(conversation(turns[:1]))


def test_a_near_role_is_named() -> None:
    with pytest.raises(Malformed, match="did you mean 'assistant'"):
        conversation([{"role": "asistant", "content": "4"}])


def test_text_under_an_unknown_key_is_told_from_what_a_turn_is_about() -> None:
    turn = {"role": "user", "content": "a b", "id": "x y", "thought": "let me see", "score": 3, "lang": "en"}
    assert unread_keys({"thought": "\u6211\u60f3\u8fd9\u4e2a\u95ee\u9898"}) == {"thought"}
    assert unread_keys({"header": {"user-agent": "Mozilla/5.0 (X11)"}, "labels": {"a": "b c"}}) == set()
    assert unread_keys([turn, {"role": "user", "details": [{"text": "of two words"}]}]) == {"thought", "details"}


def test_blocks_of_content_that_call_tools_become_calls_and_results() -> None:
    text = {"type": "text", "text": "I look."}
    call = {"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "."}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a.py"}]}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "What is here?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    called = {"type": "function", "id": "t1", "function": {"name": "ls", "arguments": {"path": "."}}}
    assert conversation(turns)[1:] == [
        {"role": "assistant", "content": "I look.", "tool_calls": [called], "reasoning_content": "Hm."},
        {"role": "tool", "content": "a.py", "tool_call_id": "t1"},
        {"role": "user", "content": "And?"},
    ]
    with pytest.raises(Malformed, match="says two things"):
        conversation([turns[0], {**turns[1], "tool_calls": [{"name": "rm", "arguments": {}}]}])


def test_tags_around_a_tools_result_are_the_templates() -> None:
    wrapped = {"role": "tool", "content": "<tool_response>\n4\n</tool_response>"}
    assert conversation([wrapped]) == [{"role": "tool", "content": "4"}]


@pytest.mark.parametrize(
    "said",
    [
        {"documents": [{"title": "A"}]}, {"tools": [{"name": "f"}]}, {"thought": "3-2=1"}, {"recipient": "functions.f"},
        {"scratch": {"a": "b"}},
    ],
)  # fmt: skip
def test_a_key_that_says_something_in_any_form_is_told(said: dict[str, Any]) -> None:
    assert unread_keys([{"role": "user", "content": "?", "lang": "en", "score": 3, **said}]) == set(said)


@pytest.mark.parametrize(
    "said", [{"mask": True}, {"mask": 0}, {"training": False}, {"deleted": True}, {"train_detail": [{"train": False}]}]
)
def test_what_may_say_whether_a_turn_is_learnt_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="whether it is learnt is said by weight, train"):
        conversation([{"role": "assistant", "content": "4", **said}])
    part = {"type": "text", "text": "4", **said}
    with pytest.raises(Malformed, match="which is not read"):
        conversation([{"role": "assistant", "content": [part]}])


@pytest.mark.parametrize("said", [{"loss": 0}, {"loss_mask": 0}, {"loss_weight": 0.0}, {"trainable": False}])
def test_turns_are_not_learnt_by_many_names(said: dict[str, Any]) -> None:
    assert conversation([{"role": "assistant", "content": "4", **said}])[0]["weight"] == 0


@pytest.mark.parametrize("said", [{"loss": 0.7}, {"deleted": False}, {"loss": 1}])
def test_figures_of_a_turn_are_no_weights(said: dict[str, Any]) -> None:
    assert "weight" not in conversation([{"role": "assistant", "content": "4", **said}])[0]


def test_calls_and_parts_say_no_more_than_is_read() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {}}, "thought": "I need it"}
    for turn in (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": [{"type": "text", "text": "q", "content": "other text"}]},
    ):
        with pytest.raises(Malformed, match=r"no thought|with content, which is not read"):
            conversation([turn])


def test_content_may_be_the_json_of_its_parts() -> None:
    assert conversation([{"role": "user", "content": '[{"type": "text", "text": "q"}]'}])[0]["content"] == "q"
    other = '[{"type": "text", "value": "q"}]'
    assert conversation([{"role": "user", "content": other}])[0]["content"] == other


def test_a_role_may_be_said_twice() -> None:
    assert conversation([{"role": "user", "from": "human", "content": "?"}]) == [{"role": "user", "content": "?"}]
    with pytest.raises(Malformed, match="says two things"):
        conversation([{"role": "user", "from": "gpt", "content": "?"}])


def test_a_conversation_may_be_json_in_a_cell() -> None:
    assert conversation('[{"role": "user", "content": "hi"}]') == [{"role": "user", "content": "hi"}]
    with pytest.raises(Malformed, match="a conversation should be JSON"):
        conversation("[{'role': 'user'}]")


@pytest.mark.parametrize("value", [None, []])
def test_no_conversation_is_a_row_that_teaches_nothing(value: object) -> None:
    with pytest.raises(Malformed) as error:
        conversation(value)
    assert error.value.readable
