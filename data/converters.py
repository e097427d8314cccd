"""The groups of layouts that kinds of stages train on, and each layout's conversion of a row to its group's columns."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data.messages import Malformed, Message, assistant_turn, conversation, tool_schemas, user_turn

Row = dict[str, Any]
Convert = Callable[[Mapping[str, Any]], Row]
"""Raises `Malformed` for a row that is not of its layout."""
Layout = tuple[tuple[str, ...], Convert]
"""The columns that make it, and the conversion."""


@dataclass(frozen=True)
class Group:
    """The layouts of one form of training rows, the one to be preferred first."""

    layouts: tuple[Layout, ...]
    keeps_columns: bool = False
    """Every other column stays for the reward functions, but `UNSEEN`."""
    labels: Literal["ignored", "refused", "trained on"] = "ignored"
    """What becomes of a column `label` beside single answers, which says whether each is good."""


UNSEEN = {
    "chosen", "rejected", "completion", "completions", "completion_ids", "prompts", "messages", "conversations",
    "tools", "image", "images", "trainer_state", "log_extra", "log_metric",
}  # fmt: skip
"""Columns that reward functions are not given: GRPO's trainer uses the names itself, or they hold answers."""


def _text(row: Mapping[str, Any]) -> Row:
    return {"text": _string(row, "text")}


def _messages(column: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        return {"messages": [*_system(row), *conversation(row[column])], **_tools(row)}

    return convert


def _prompt_completion(row: Mapping[str, Any]) -> Row:
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if isinstance(prompt, str) and isinstance(completion, str):
        _refuse_system(row)
        return {"prompt": prompt, "completion": completion}
    return {"prompt": _question(row, "prompt"), "completion": _answered(completion), **_tools(row)}


def _instruction(answer: str, *asking: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        return {"prompt": _question(row, *asking), "completion": assistant_turn(_string(row, answer))}

    return convert


def _pair(*asking: str) -> Convert:
    """Return the conversion of a pair whose prompt stands in one of the columns `asking`, or in both sides."""

    def convert(row: Mapping[str, Any]) -> Row:
        chosen, rejected = row["chosen"], row["rejected"]
        margin = {"margin": _number(row, "margin")} if "margin" in row else {}
        plain_prompt = not asking or (asking == ("prompt",) and isinstance(row["prompt"], str))
        if plain_prompt and isinstance(chosen, str) and isinstance(rejected, str):
            _refuse_system(row)
            sides = {"chosen": chosen, "rejected": rejected}
            return {**({"prompt": row["prompt"], **sides} if asking else _shared_text(**sides)), **margin}
        answers = {"chosen": _answered(chosen), "rejected": _answered(rejected)}
        if not asking or all(answer[0]["role"] in ("system", "user") for answer in answers.values()):
            return {**_shared_turns(row, **answers), **_tools(row), **margin}
        return {"prompt": _question(row, *asking), **answers, **_tools(row), **margin}

    return convert


def _only_prompt(*asking: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        if tool_schemas(row.get("tools")):
            raise Malformed(
                "GRPO shows no tools of a row to the model: describe them in its system turn", "tools in GRPO"
            )
        if asking[0] in ("messages", "conversations"):
            return {"prompt": _before_answer([*_system(row), *conversation(row[asking[0]])])}
        return {"prompt": _question(row, *asking), **({} if asking == ("prompt",) else _solution(row))}

    return convert


def _labelled(conversion: Convert) -> Convert:
    """Return the conversion of an answer with its label; of a conversation the last turn is the answer."""

    def convert(row: Mapping[str, Any]) -> Row:
        converted = conversion(row)
        if messages := converted.pop("messages", None):
            cut = len(messages) - (messages[-1]["role"] == "assistant")
            converted = {"prompt": messages[:cut], "completion": messages[cut:], **converted}
        return {**converted, "label": _label(row)}

    return convert


CONVERSATIONS: tuple[Layout, ...] = (
    (("messages",), _messages("messages")),
    (("conversations",), _messages("conversations")),
)
PAIRS: tuple[Layout, ...] = (
    (("conversations", "chosen", "rejected"), _pair("conversations")),
    (("prompt", "chosen", "rejected"), _pair("prompt")),
    (("instruction", "chosen", "rejected"), _pair("instruction", "input")),
    (("question", "chosen", "rejected"), _pair("question")),
    (("chosen", "rejected"), _pair()),
)
LAYOUTS: dict[str, Group] = {
    "documents": Group(((("text",), _text),)),
    "conversations": Group(
        (
            *CONVERSATIONS,
            (("prompt", "completion"), _prompt_completion),
            (("instruction", "output"), _instruction("output", "instruction", "input")),
            (("question", "answer"), _instruction("answer", "question")),
            (("problem", "solution"), _instruction("solution", "problem")),
            (("text",), _text),
        ),
        labels="refused",
    ),
    "pairs": Group(PAIRS, labels="refused"),
    "prompts": Group(
        (
            (("prompt",), _only_prompt("prompt")),
            (("question",), _only_prompt("question")),
            (("problem",), _only_prompt("problem")),
            (("instruction",), _only_prompt("instruction", "input")),
            (("messages",), _only_prompt("messages")),
            (("conversations",), _only_prompt("conversations")),
        ),
        keeps_columns=True,
    ),
    "labelled": Group(
        (
            (("prompt", "completion", "label"), _labelled(_prompt_completion)),
            *(((*columns, "label"), _labelled(convert)) for columns, convert in CONVERSATIONS),
            *PAIRS,
        ),
        labels="trained on",
    ),
}
"""The groups by what `kinds.Kind.layout` calls them."""


def _solution(row: Mapping[str, Any]) -> Row:
    """Return `solution`, the name that TRL's accuracy reward reads, for rows that have only an `answer`.

    GSM8K's answers are worked out, and end in `#### 72`.
    """
    if "solution" in row or "answer" not in row:
        return {}
    return {"solution": str(row["answer"]).rpartition("####")[2].strip()}


def _label(row: Mapping[str, Any]) -> bool:
    label = {"true": True, "1": True, "false": False, "0": False}.get(str(row["label"]).strip().lower())
    if label is None:
        raise Malformed(f"label must be true or false (or 1 or 0), not {row['label']!r:.80}")
    return label


def _number(row: Mapping[str, Any], column: str) -> float:
    try:
        number = float(row[column])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Malformed(f"{column} must be a number, not {row[column]!r:.80}")
    return number


def _string(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        quoted = f': write it as "{value}"' if isinstance(value, int | float) else ""
        raise Malformed(f"{column} must be text, not the {type(value).__name__} {value!r:.80}{quoted}")
    return value


def _question(row: Mapping[str, Any], *columns: str) -> list[Message]:
    """Return what asks, turns or the texts one below the other, after the system turn; nothing if it is empty."""
    turns = row[columns[0]]
    if not isinstance(turns, list | Mapping):
        texts = [_string(row, column) for column in columns if column in row]
        turns = user_turn("\n\n".join(text for text in texts if text.strip())) if any(map(str.strip, texts)) else None
    return [*_system(row), *conversation(turns)] if turns is not None else []


def _answered(value: object) -> list[Message]:
    return assistant_turn(value or "") if isinstance(value, str) or value is None else conversation(value)


def _system(row: Mapping[str, Any]) -> list[Message]:
    text = _string(row, "system") if "system" in row else ""
    return [{"role": "system", "content": text}] if text.strip() else []


def _refuse_system(row: Mapping[str, Any]) -> None:
    if _system(row):
        raise Malformed(
            "plain text has no system turn: give prompt and answers as messages, or leave `system` out",
            "`system` beside plain text",
        )


def _tools(row: Mapping[str, Any]) -> Row:
    return {"tools": tool_schemas(row["tools"])} if "tools" in row else {}


def _before_answer(messages: list[Message]) -> list[Message]:
    """Return the turns before the last assistant turn; all of them if they end with a question."""
    if messages[-1]["role"] in ("user", "tool"):
        return messages
    return messages[: max((place for place, turn in enumerate(messages) if turn["role"] == "assistant"), default=0)]


def _shared_text(chosen: str, rejected: str) -> Row:
    shorter = min(len(chosen), len(rejected))
    differ = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
    # Back to before the last space: a word that only begins alike belongs to the answers.
    cut = next((n for n in range(differ - 1, -1, -1) if chosen[n].isspace()), 0)
    return {"prompt": chosen[:cut], "chosen": chosen[cut:], "rejected": rejected[cut:]}


def _shared_turns(row: Mapping[str, Any], chosen: list[Message], rejected: list[Message]) -> Row:
    cut = next((n for n, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), len(chosen))
    prompt = [*_system(row), *chosen[:cut]] if cut else []
    return {"prompt": prompt, "chosen": chosen[cut:], "rejected": rejected[cut:]}
