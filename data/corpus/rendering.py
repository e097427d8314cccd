"""A row as one pretraining document: its text, or its conversation in the project's chat template."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.chat import CHAT_TEMPLATE, TURN_END
from data.converters import BESIDE, CONVERSATIONS, LAYOUTS
from data.layouts import RENDERED, rendered_turn
from data.messages import Malformed, is_learnt, says_nothing, without_padding
from utils.errors import Refused, did_you_mean

Row = Mapping[str, Any]

CONVERT = {layout.columns[0]: layout.convert for layout in (*LAYOUTS["documents"].layouts, *CONVERSATIONS)}
"""How a row becomes text, or messages and tools, by the column that holds it."""


def to_text(columns: Iterable[str], name: str) -> tuple[list[str], Callable[[Row], str]]:
    """Return which of `columns` make a document, and the function that makes it from a row; "" for an empty one.

    The function raises `Malformed` for a row that is not what the columns say. `name` is for messages.

    Raises:
        Refused: there is neither text nor a conversation in the columns.
    """
    columns = list(columns)
    column = next((column for column in CONVERT if column in columns), None)
    if column is None:
        near = next((hint for column in columns if (hint := did_you_mean(column, CONVERT))), ".")
        raise Refused(
            f"{name} has no text: its columns are {', '.join(columns) or 'none'}{near} Pretraining needs a column "
            f"{' or '.join(CONVERT)}: rename one, or choose other data."
        )
    used = [column, *(beside for beside in BESIDE if beside in columns and column != "text")]

    def document(row: Row) -> str:
        if column != "text" and not row.get(column):
            return ""
        converted = CONVERT[column]({key: without_padding(row.get(key)) for key in used})
        if not all(map(is_learnt, converted.get("messages", ()))):
            raise Malformed("a turn has weight 0, and pretraining learns every turn: leave the row or the weight out")
        if column != "text" and (text := rendered_turn(converted)):
            raise Malformed(f"{RENDERED}: {text!r:.80}")
        return converted["text"] if column == "text" else render(**converted)

    return used, document


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    """Return a conversation as every stage shows it, turns ended by <|im_end|>; "" if the assistant says nothing."""
    from transformers.utils.chat_template_utils import render_jinja_template

    if says_nothing(messages):
        return ""
    (text,), _ = render_jinja_template([messages], tools=tools, chat_template=CHAT_TEMPLATE, eos_token=TURN_END)
    return str(text)
