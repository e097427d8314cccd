"""A row as one pretraining document: its text, or its conversation in the project's chat template."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.chat import CHAT_TEMPLATE, TURN_END
from data.converters import CONVERSATIONS
from data.messages import Malformed, says_nothing, without_padding
from utils.errors import Refused, did_you_mean

Row = Mapping[str, Any]

RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
CONVERT = {column: convert for (column,), convert in CONVERSATIONS}
"""How a row becomes messages and tools, by the column that holds its conversation."""
COLUMNS = ("text", *CONVERT)


def to_text(columns: Iterable[str], name: str) -> tuple[list[str], Callable[[Row], str]]:
    """Return which of `columns` make a document, and the function that makes it from a row; "" for an empty one.

    The function raises `Malformed` for a row that is not what the columns say. `name` is for messages.

    Raises:
        Refused: there is neither text nor a conversation in the columns.
    """
    columns = list(columns)
    found = next((column for column in COLUMNS if column in columns), None)
    if found is None:
        near = next((hint for column in columns if (hint := did_you_mean(column, COLUMNS))), ".")
        raise Refused(
            f"{name} has no text: its columns are {', '.join(columns) or 'none'}{near} Pretraining needs a column "
            f"{' or '.join(COLUMNS)}: rename one, or choose other data."
        )
    if found == "text":
        return ["text"], _text
    convert = CONVERT[found]
    used = [column for column in (found, "system", "tools") if column in columns]

    def conversation(row: Row) -> str:
        if not row.get(found):
            return ""
        return render(**convert({column: without_padding(row[column]) for column in used if column in row}))

    return used, conversation


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    """Return a conversation as every stage shows it, its turns ended by <|im_end|>; "" if the assistant says nothing.

    What data sets write into the turns themselves is not written twice: tools that the system turn lists already, and
    the tags around a tool's response.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    if says_nothing(messages):
        return ""
    turns = [
        {**turn, "content": match[1]}
        if turn["role"] == "tool" and (match := RESPONSE.fullmatch(turn["content"]))
        else turn
        for turn in messages
    ]
    listed = turns[0]["role"] == "system" and "<tools>" in turns[0]["content"]
    (text,), _ = render_jinja_template(
        [turns], tools=None if listed else tools, chat_template=CHAT_TEMPLATE, eos_token=TURN_END
    )
    return str(text)


def _text(row: Row) -> str:
    value = row.get("text")
    if value is not None and not isinstance(value, str):
        raise Malformed(f"text is a string, not {value!r:.80}")
    return value or ""
