"""Turns of a conversation, in the dialects that data sets use, as the messages that chat templates take.

A message has `role` and `content`, and what its row says of `tool_calls`, `tool_call_id`, `name`, `reasoning_content`
(what the assistant thinks before it answers) and `weight` (0: context, not to be learnt).
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from utils import strict_json
from utils.errors import did_you_mean
from utils.matching import WITHOUT_SPACES
from utils.strict_json import KeyTwice
from utils.text import says
from utils.values import shown

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function-call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "environment": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function-response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function": "tool",
    "ipython": "tool",
}
"""Roles by the names that data sets give them, in any case."""
CALLING = ("function_call", "function-call", "tool_call")
"""Roles of turns that are calls."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a turn, or columns beside an answer, for what is thought before it."""
DETAILS = ("reasoning_details", "thinking_blocks")
"""Keys of a turn that hold thoughts as a list of parts."""
CALLS = ("tool_calls", "function_call", "tool_call")
LEARNT = ("weight", "train", "loss", "loss_mask", "loss_weight", "trainable")
"""Keys of a turn that say whether it is learnt: 0 or false is not."""
MASKS = re.compile(
    r"(?:^|_)(?:loss|train(?:ing|able|ed)?|weights?|learn(?:t|ed|able)?|mask)(?:_|$)|mask$", re.IGNORECASE
)
GONE = re.compile(r"(?:^|_)(?:ignored?|skip(?:ped)?|deleted?)(?:_|$)", re.IGNORECASE)
"""Names of keys that may say so, too, the latter where they are true."""
READ = {
    "role", "from", "content", "value", "tool_call_id", "tool_use_id", "name", *CALLS, *LEARNT, *DETAILS, *THOUGHTS,
}  # fmt: skip
"""Keys of a turn that say what it is."""
ABOUT = {
    "id", "date", "time", "timestamp", "created_at", "model", "source", "author", "language", "country", "state",
    "header", "hashed_ip", "turn_identifier", "meta", "metadata", "extra", "usage", "logprobs", "moderation",
    "annotations", "citations", "labels", "emojis", "detoxify", "cache_control", "signature",
}  # fmt: skip
"""Keys of a turn, or of a part of its content, that say where it comes from."""
TOLD_IN_A_WORD = re.compile(r"thought|think|reason|recipient|channel", re.IGNORECASE)
"""Unknown keys of which a single word counts."""
TURNS_IN_CELL = re.compile(r"""\s*\[?\s*\{\s*["'](role|from|content|value)["']\s*:""")
SAYS_A_ROLE = re.compile(r"""["'](role|from)["']\s*:""")
PARTS_IN_CELL = re.compile(r"""\s*\[\s*\{\s*"(type|text)"\s*:""")


class Malformed(ValueError):
    """A row that cannot be used. The message tells of its value, `reason` what it has in common with others.

    The caller adds the row's number.
    """

    def __init__(self, message: str, reason: str = "a value of the wrong type", *, readable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.readable = readable
        """It is what its columns say, and can teach nothing."""


RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
"""What data sets of Hermes' form write around a tool's result, and templates write anyway."""
NO_MESSAGES = "what is no list of messages"
NO_TOOLS = "tools that do not parse"
NO_CALL = "function calls that do not parse"
NO_TEXT = "content that is no text"


def conversation(value: object) -> list[Message]:
    """Return a list of turns, or a single turn, as messages with `role`, `content` and where they call `tool_calls`.

    Raises:
        Malformed: it is no conversation.
    """
    value = turns_in(value)
    if isinstance(value, Mapping):
        value = [value]
    if value is None or value == []:
        raise Malformed("a list of messages was expected, and there is none", "no messages", readable=True)
    if not isinstance(value, list):
        raise Malformed(f"a list of messages was expected, not {shown(value)}", NO_MESSAGES)
    return [_message(one) for turn in value for one in _without_blocks(turn)]


def turns_in(value: object) -> Any:
    """Return a text as the conversation whose JSON it is, as a .csv has it; any other value as it is.

    Raises:
        Malformed: it looks like one, and is no JSON, as what Python prints is none.
    """
    if not isinstance(value, str) or not TURNS_IN_CELL.match(value) or value.rstrip()[-1] not in "]}":
        return value
    if not SAYS_A_ROLE.search(value):
        return value
    found = parsed(value, "a conversation", NO_MESSAGES)
    turns = found if isinstance(found, list) else [found]
    said = (turn.get("role", turn.get("from")) for turn in turns if isinstance(turn, Mapping))
    return turns if all(str(one).strip().lower() in ROLES for one in said) else value


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
        value = parsed(value, "tools", NO_TOOLS)
    if not value:
        return None
    listed = value if isinstance(value, list) else []
    tools = [parsed(tool, "tools", NO_TOOLS) if isinstance(tool, str) else tool for tool in listed]
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


def lists_tools(messages: list[Message], tools: list[dict[str, Any]]) -> bool:
    """Tell whether the system turn lists the tools already, as those of Hermes' form do: templates would again."""
    text = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    return "<tools>" in text and all(tool["function"]["name"] in text for tool in tools)


def unread_keys(turns: object) -> set[str]:
    """Return the keys of a conversation's turns that say something which no stage reads: text, lists, objects."""
    listed = turns if isinstance(turns, list) else [turns]
    return {key for turn in listed if isinstance(turn, Mapping) for key in _saying(turn) - READ}


def _saying(part: Mapping[str, Any]) -> set[str]:
    """Return the keys of an object that say something: two words or more, where one does not do, a list, an object."""
    others = ((key, part[key]) for key in part.keys() - ABOUT)
    return {key for key, value in others if value and (_has_words(key, value) or isinstance(value, list | Mapping))}


def _has_words(key: str, text: object) -> bool:
    """Tell whether a text is of two words or more; one in a script without spaces, of some letters."""
    if not isinstance(text, str) or TOLD_IN_A_WORD.search(key):
        return isinstance(text, str) and text != "all"
    return len(text.split()) > 1 or (len(text) > 4 and bool(WITHOUT_SPACES.search(text)))


def says_nothing(messages: list[Message]) -> bool:
    """Return whether no assistant turn has text, thoughts or a call that is to be learnt."""
    spoken = (message for message in messages if message["role"] == "assistant" and is_learnt(message))
    return not any(
        says(message["content"]) or message.get("tool_calls") or message.get("reasoning_content") for message in spoken
    )


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Tell whether an assistant's turn is to be learnt, and is not only context."""
    return message.get("weight") != 0


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


def _without_blocks(turn: object) -> Iterator[object]:
    """Yield a turn of Anthropic's form, whose blocks of content call tools or give their results, as turns of roles."""
    blocks = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(blocks, list) or not {"tool_use", "tool_result"} & {_type_of(block) for block in blocks}:
        yield turn
        return
    assert isinstance(turn, Mapping)
    calls = [block for block in blocks if _type_of(block) == "tool_use"]
    others = [block for block in blocks if _type_of(block) != "tool_use"]
    if calls:
        yield {**turn, "content": others, "function_call": calls}
        return
    for is_result, some in groupby(others, lambda block: _type_of(block) == "tool_result"):
        if is_result:
            yield from ({"role": "tool", **block} for block in some)
        else:
            yield {**turn, "content": list(some)}


def _type_of(block: object) -> object:
    return block.get("type") if isinstance(block, Mapping) else None


def _message(turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise Malformed(
            f"a message is an object with role and content (or from and value), not {shown(turn)}", NO_MESSAGES
        )
    roles = [turn[key] for key in ("role", "from") if turn.get(key) is not None]
    said = (
        roles[0]
        if len({ROLES.get(str(one).strip().lower(), one) for one in roles}) == 1
        else _one_of(turn, "role", "from")
    )
    named = said.strip().lower() if isinstance(said, str) else ""
    if (role := ROLES.get(named)) is None:
        near = did_you_mean(named, ROLES)
        raise Malformed(f"the role {said!r} is none of {', '.join(ROLES)}{near}", "an unknown role")
    content, calls = _one_of(turn, "content", "value"), _one_of(turn, *CALLS)
    if named in CALLING:
        calls, content = content, ""
    if calls and role != "assistant":
        raise Malformed(f"a turn of {said!r} calls, which the assistant's do: {shown(calls)}", NO_CALL)
    thoughts = {text for key in THOUGHTS if (text := _text(turn.get(key) or "", key)).strip()}
    thoughts |= {text for text in (*_thoughts_among(content), _details(turn)) if text.strip()}
    if len(thoughts) > (role == "assistant"):
        reason = "thoughts that are not the assistant's" if role != "assistant" else "two different thoughts of a turn"
        raise Malformed(f"a turn of {said!r} has {reason}: {shown(sorted(thoughts))}", reason)
    if content is None and (calls or thoughts):
        content = ""
    if role == "tool" and content is not None and _is_object(content):
        content = json.dumps(content, ensure_ascii=False)
    elif role == "tool" and isinstance(content, str) and (wrapped := RESPONSE.fullmatch(content)):
        content = wrapped[1]
    message: Message = {"role": role, "content": _text(content, f"the content of a turn of {said!r}")}
    if calls or named in CALLING:
        message["tool_calls"] = _tool_calls(calls)
    if thoughts:
        message |= _thought_once(thoughts.pop(), message["content"])
    if role == "assistant" and not _weight(turn):
        message["weight"] = 0
    if (answered := _one_of(turn, "tool_call_id", "tool_use_id")) is not None:
        message["tool_call_id"] = str(answered)
    return message | ({"name": turn["name"]} if turn.get("name") else {})


def _one_of(turn: Mapping[str, Any], *keys: str) -> Any:
    """Return what a turn says under one of some keys; None if it says nothing there."""
    said = [turn[key] for key in keys if turn.get(key) is not None]
    if any(one != said[0] for one in said):
        raise Malformed(
            f"a turn says two things, as {' and as '.join(keys)}: {shown(said)}", "a turn that says two things"
        )
    return said[0] if said else None


def _details(turn: Mapping[str, Any]) -> str:
    """Return the thoughts that OpenRouter and LiteLLM give as a list of parts."""
    parts = [part for key in DETAILS for part in turn.get(key) or () if isinstance(part, Mapping)]
    texts = (part.get("text") or part.get("thinking") or part.get("summary") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _thought_once(thought: str, content: str) -> Message:
    """Return a thought, and the content without it where it begins with the same one."""
    if "</think>" not in content:
        return {"reasoning_content": thought}
    written, _, rest = content.partition("</think>")
    if written.strip().removeprefix("<think>").strip() != thought.strip():
        reason = "two different thoughts of a turn"
        raise Malformed(f"a turn has {reason}: {shown([thought, written])}", reason)
    return {"reasoning_content": thought, "content": rest.lstrip("\n")}


TEXTS = ("text", "input_text", "output_text")
PARTS = (*TEXTS, "image", "image_url", "input_image", "audio", "video", "file", *THOUGHTS)
"""Types of the parts of a content."""


def _is_object(content: object) -> bool:
    """Tell whether a tool's result is JSON that is neither text nor a list of typed parts."""
    if isinstance(content, list) and content:
        return not all(isinstance(one, Mapping) and one.get("type") in PARTS for one in content)
    return not isinstance(content, str)


def _text(value: object, what: str) -> str:
    """Return a text, or the texts of a list of typed parts, one below the other where no space parts them."""
    if isinstance(value, str):
        parts = _json_in(value) if PARTS_IN_CELL.match(value) else None
        if not isinstance(parts, list) or not all(
            isinstance(one, Mapping) and {*one} == {"type", "text"} for one in parts
        ):
            return value
        value = parts
    if not isinstance(value, list):
        raise Malformed(f"{what} must be text, not {shown(value)}", NO_TEXT)
    text = ""
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in THOUGHTS:
            continue
        found = part.get("text") if isinstance(part, Mapping) else part
        if kind not in TEXTS or not isinstance(found, str):
            raise Malformed(f"{what} has a part that is no text: {shown(part)}", NO_TEXT)
        if isinstance(part, Mapping) and (more := (_saying(part) | _marks(part)) - {"type", "text"}):
            raise Malformed(
                f"{what} has a part with {', '.join(sorted(more))}, which is not read: {shown(part)}", NO_TEXT
            )
        glued = text and found and not text[-1].isspace() and not found[0].isspace()
        text += "\n" * bool(glued) + found
    return text


def _json_in(text: str) -> Any:
    """Return what a text says as JSON; None if it is none."""
    try:
        return strict_json.read(text)
    except ValueError:
        return None


def _thoughts_among(content: object) -> Iterator[str]:
    """Yield the thoughts among a content's typed parts."""
    said = False
    for part in content if isinstance(content, list) else []:
        thinks = isinstance(part, Mapping) and part.get("type") in THOUGHTS
        if thinks and said:
            raise Malformed(f"a turn thinks after it has spoken: {shown(content)}", "thoughts after the answer")
        said |= not thinks
        if thinks:
            yield _text(part.get(part["type"], part.get("text")), f"a part of type {part['type']!r}")


def _weight(turn: Mapping[str, Any]) -> int:
    """Return 0 for a turn that is not to be learnt: OpenAI's `weight`, axolotl's `train`, ms-swift's `loss`, more."""
    given = [turn[key] for key in LEARNT if turn.get(key) is not None]
    if not isinstance(turn.get("loss"), bool) and turn.get("loss") not in (None, 0, 1):
        given.remove(turn["loss"])  # a figure
    if unknown := _marks(turn) - {*LEARNT}:
        key = min(unknown)
        raise Malformed(
            f"a turn says {key} = {shown(turn[key])}, and whether it is learnt is said by {', '.join(LEARNT)}: if 0 or "
            f"false there means that it is not, columns={{'weight': {key!r}}}; else columns={{{key!r}: None}}",
            f"`{key}` of a turn",
        )
    if any(not isinstance(one, bool | int | float) or one not in (0, 1) for one in given):
        raise Malformed(f"the weight of a turn is 0 (not learnt) or 1, not {shown(given[0])}", "a weight but 0 or 1")
    return int(all(given))


def _marks(part: Mapping[str, Any]) -> set[str]:
    """Return the keys that may say whether something is learnt."""
    said = {key: value for key, value in part.items() if isinstance(value, bool | int | float | list)}
    return {
        key for key, value in said.items() if (MASKS.search(key) or (value and GONE.search(key))) and key not in ABOUT
    }


ARGUMENTS = ("arguments", "parameters", "args", "input")
"""Names that the arguments of a call have."""


def _tool_calls(value: object) -> list[dict[str, Any]]:
    """Return calls, given as objects or as JSON, one or several, in OpenAI's form with the arguments as an object."""
    value = parsed(value, "a function call", NO_CALL) if isinstance(value, str) else value
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Malformed(f"a function call has a name and arguments, not {shown(call)}", NO_CALL)
        given = [key for key in ARGUMENTS if key in function]
        unknown = function.keys() - {"name", "id", "type", "index", "description", *ARGUMENTS}
        assert isinstance(call, Mapping)
        unknown |= _saying(call) - {"function", "name", "id", "type", "index", "description", *ARGUMENTS}
        if len(given) > 1 or unknown:
            named_so = ", ".join([*given[1:], *sorted(unknown)])
            raise Malformed(f"a function call has a name and arguments, and no {named_so}: {shown(call)}", NO_CALL)
        arguments = function[given[0]] if given else None
        if isinstance(arguments, str):
            arguments = parsed(arguments, "a function call's arguments", NO_CALL) if arguments.strip() else None
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping):
            raise Malformed(f"a function call's arguments are an object, not {shown(arguments)}", NO_CALL)
        named = {"id": str(call["id"])} if isinstance(call, Mapping) and call.get("id") is not None else {}
        calls.append({"type": "function", **named, "function": {"name": function["name"], "arguments": arguments}})
    return calls


def parsed(text: str, what: str, reason: str) -> Any:
    """Return what a text says as JSON; raise Malformed, for `reason`, where it is none. `what` is for the message."""
    try:
        return strict_json.read(text)
    except KeyTwice as error:
        raise Malformed(f"in {what}, {error}", reason) from None
    except ValueError as error:
        raise Malformed(f"{what} should be JSON, not {shown(text)} ({strict_json.reason(error)})", reason) from None
