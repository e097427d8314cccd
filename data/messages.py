"""Turns of a conversation, in the dialects that data sets use, as the messages that chat templates take."""

from collections.abc import Mapping
from typing import Any

from utils import strict_json
from utils.strict_json import KeyTwice
from utils.values import shown

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


class Malformed(ValueError):
    """A row that cannot be used. The message tells of its value, `reason` what it has in common with others.

    The caller adds the row's number.
    """

    def __init__(self, message: str, reason: str = "a value of the wrong type", *, readable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.readable = readable
        """It is what its columns say, and can teach nothing."""


NO_MESSAGES = "what is no list of messages"
NO_TOOLS = "tools that do not parse"
NO_CALL = "function calls that do not parse"


def conversation(value: object) -> list[Message]:
    """Return a list of turns, or a single turn, as messages with `role`, `content` and where they call `tool_calls`.

    Raises:
        Malformed: it is no conversation.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Malformed(f"a list of messages was expected, not {shown(value)}", NO_MESSAGES)
    return [_message(turn) for turn in value]


def user_turn(text: str) -> list[Message]:
    """Return a plain prompt as the conversation that asks it."""
    return [{"role": "user", "content": text}]


def assistant_turn(text: str) -> list[Message]:
    """Return a plain answer as the turn that gives it."""
    return [{"role": "assistant", "content": text}]


def tool_schemas(value: object) -> list[dict[str, Any]] | None:
    """Return tools as OpenAI function schemas, given as a list or as JSON, bare or wrapped; None if there are none.

    Raises:
        Malformed: it is no list of schemas.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools", NO_TOOLS)
    if not value:
        return None
    listed = value if isinstance(value, list) else []
    tools = [_parsed(tool, "tools", NO_TOOLS) if isinstance(tool, str) else tool for tool in listed]
    if not tools or not all(isinstance(tool, Mapping) for tool in tools):
        raise Malformed(f"tools are a list of function schemas, not {shown(value)}", NO_TOOLS)
    schemas = [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]
    for schema in schemas:
        function = schema["function"]
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Malformed(f"a tool is a function with a name, not {shown(schema)}", NO_TOOLS)
        if not isinstance(function.get("parameters"), Mapping | None):
            raise Malformed(f"a tool's parameters are an object, not {shown(function['parameters'])}", NO_TOOLS)
    return schemas


def says_nothing(messages: list[Message]) -> bool:
    """Return whether no assistant turn has text or a call: there is nothing to learn from it."""
    spoken = (message for message in messages if message["role"] == "assistant")
    return not any(message["content"].strip() or message.get("tool_calls") for message in spoken)


def out_of_order(messages: list[Message]) -> str | None:
    """Return which turn stands where none of its role can; None if all are in order.

    The system's comes first, the user's before the assistant's, neither twice in a row, and a tool answers a call. One
    that calls may go on, or be what another goes on with.
    """
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role == "system" and before:
            return f"turn {number}, of the system, is not the first"
        if role == "tool" and before not in ("assistant", "calls", "tool"):
            return f"turn {number}, of a tool, follows no call"
        if role == "assistant" and before in ("", "system"):
            return f"turn {number}, of the assistant, follows no question"
        if role == before == "user" or (role == before == "assistant" and not message.get("tool_calls")):
            return f"turn {number}, of the {role}, follows another of the {role}"
        before = "calls" if message.get("tool_calls") else role
    return None


def without_padding(value: Any) -> Any:
    """Drop the None entries that Arrow adds so that every struct of a column has the same keys."""
    if isinstance(value, dict):
        return {key: without_padding(item) for key, item in value.items() if item is not None}
    return [without_padding(item) for item in value] if isinstance(value, list) else value


def _message(turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise Malformed(
            f"a message is an object with role and content (or from and value), not {shown(turn)}", NO_MESSAGES
        )
    said = turn.get("role", turn.get("from"))
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise Malformed(f"the role {said!r} is none of {', '.join(ROLES)}", "an unknown role")
    content = turn.get("content", turn.get("value"))
    if said == "function_call":
        return {"role": role, "content": "", "tool_calls": _tool_calls(content)}
    calls = turn.get("tool_calls")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise Malformed(
            f"the content of a turn of {said!r} must be text, not {shown(content)}", "content that is no text"
        )
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = _tool_calls(calls)
    if turn.get("name"):
        message["name"] = turn["name"]
    return message


def _tool_calls(value: object) -> list[dict[str, Any]]:
    """Return calls, given as objects or as JSON, one or several, in OpenAI's form with the arguments as an object."""
    value = _parsed(value, "a function call", NO_CALL) if isinstance(value, str) else value
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Malformed(f"a function call has a name and arguments, not {shown(call)}", NO_CALL)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _parsed(arguments, "a function call's arguments", NO_CALL) if arguments.strip() else None
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping):
            raise Malformed(f"a function call's arguments are an object, not {shown(arguments)}", NO_CALL)
        calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return calls


def _parsed(text: str, what: str, reason: str) -> Any:
    try:
        return strict_json.read(text)
    except KeyTwice as error:
        raise Malformed(f"in {what}, {error}", reason) from None
    except ValueError as error:
        raise Malformed(f"{what} should be JSON, not {shown(text)} ({strict_json.reason(error)})", reason) from None
