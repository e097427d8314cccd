"""Each layout's conversion: one row of it to the columns of its stage."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from data.messages import Malformed, Message, assistant_turn, conversation, tool_schemas, user_turn

Row = dict[str, Any]
Layout = tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Row]]
"""The columns that make it, and the conversion, which raises `Malformed` for a row that is not of it."""


def _text(row: Mapping[str, Any]) -> Row:
    return {"text": _string(row, "text")}


def _messages(column: str) -> Callable[[Mapping[str, Any]], Row]:
    def convert(row: Mapping[str, Any]) -> Row:
        return {"messages": [*_system(row), *conversation(row[column])], **_tools(row)}

    return convert


def _prompt_completion(row: Mapping[str, Any]) -> Row:
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if isinstance(prompt, str) and isinstance(completion, str):
        _refuse_system(row)
        return {"prompt": prompt, "completion": completion}
    return {"prompt": _prompt(row, prompt), "completion": _answered(completion), **_tools(row)}


def _instruction(answer: str, *asking: str) -> Callable[[Mapping[str, Any]], Row]:
    def convert(row: Mapping[str, Any]) -> Row:
        return {"prompt": _question(row, *asking), "completion": assistant_turn(_string(row, answer))}

    return convert


def _pair(*asking: str) -> Callable[[Mapping[str, Any]], Row]:
    """Return the conversion of a pair whose prompt stands in one of the columns `asking`, or in both sides."""

    def convert(row: Mapping[str, Any]) -> Row:
        chosen, rejected = row["chosen"], row["rejected"]
        margin = {"margin": _number(row, "margin")} if "margin" in row else {}
        plain = isinstance(chosen, str) and isinstance(rejected, str)
        if plain and not asking:
            _refuse_system(row)
            return {**_shared_text(chosen, rejected), **margin}
        if plain and asking == ("prompt",) and isinstance(row["prompt"], str):
            _refuse_system(row)
            return {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, **margin}
        sides = _answered(chosen), _answered(rejected)
        if not asking or all(side[0]["role"] in ("system", "user") for side in sides):
            return {**_shared_turns(row, *sides), **_tools(row), **margin}
        prompt = _prompt(row, row["prompt"]) if asking == ("prompt",) else _question(row, *asking)
        return {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], **_tools(row), **margin}

    return convert


def _pair_sharegpt(row: Mapping[str, Any]) -> Row:
    return _pair("prompt")({**row, "prompt": conversation(row["conversations"])})


def _only_prompt(*asking: str) -> Callable[[Mapping[str, Any]], Row]:
    def convert(row: Mapping[str, Any]) -> Row:
        if tool_schemas(row.get("tools")):
            raise Malformed(
                "GRPO shows no tools of a row to the model: describe them in its system turn", "tools in GRPO"
            )
        if asking == ("prompt",):
            return {"prompt": _prompt(row, row["prompt"])}
        if asking[0] in ("messages", "conversations"):
            return {"prompt": _before_answer([*_system(row), *conversation(row[asking[0]])])}
        return {"prompt": _question(row, *asking), **_solution(row)}

    return convert


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "pretrain": ((("text",), _text),),
    "sft": (
        (("messages",), _messages("messages")),
        (("conversations",), _messages("conversations")),
        (("prompt", "completion"), _prompt_completion),
        (("instruction", "output"), _instruction("output", "instruction", "input")),
        (("question", "answer"), _instruction("answer", "question")),
        (("problem", "solution"), _instruction("solution", "problem")),
        (("text",), _text),
    ),
    "dpo": (
        (("conversations", "chosen", "rejected"), _pair_sharegpt),
        (("prompt", "chosen", "rejected"), _pair("prompt")),
        (("instruction", "chosen", "rejected"), _pair("instruction", "input")),
        (("question", "chosen", "rejected"), _pair("question")),
        (("chosen", "rejected"), _pair()),
    ),
    "grpo": (
        (("prompt",), _only_prompt("prompt")),
        (("question",), _only_prompt("question")),
        (("problem",), _only_prompt("problem")),
        (("instruction",), _only_prompt("instruction", "input")),
        (("messages",), _only_prompt("messages")),
        (("conversations",), _only_prompt("conversations")),
    ),
}
LAYOUTS["reward"] = LAYOUTS["dpo"]


def _solution(row: Mapping[str, Any]) -> Row:
    """Return `solution`, the name that TRL's accuracy reward reads, for rows that have only an `answer`.

    GSM8K's answers are worked out, and end in `#### 72`.
    """
    if "solution" in row or "answer" not in row:
        return {}
    return {"solution": str(row["answer"]).rpartition("####")[2].strip()}


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


def _prompt(row: Mapping[str, Any], value: object) -> list[Message]:
    """Return what asks, text or turns, after the row's system turn; nothing if it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    return [*_system(row), *(user_turn(value) if isinstance(value, str) else conversation(value))]


def _answered(value: object) -> list[Message]:
    return assistant_turn(value or "") if isinstance(value, str) or value is None else conversation(value)


def _question(row: Mapping[str, Any], *columns: str) -> list[Message]:
    """Return the columns that ask, one below the other, as one user turn after the system turn."""
    parts = [_string(row, column) for column in columns if column in row]
    return _prompt(row, "\n\n".join(part for part in parts if part.strip()))


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
