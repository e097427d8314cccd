"""The groups of layouts that kinds of stages train on, and each layout's conversion of a row to its group's columns."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from data.messages import (
    THOUGHTS,
    Malformed,
    Message,
    assistant_turn,
    conversation,
    lists_tools,
    parsed,
    tool_schemas,
    user_turn,
)
from utils.errors import Refused
from utils.matching import right_answers

Row = dict[str, Any]
Convert = Callable[[Mapping[str, Any]], Row]
"""Raises `Malformed` for a row that is not of its layout."""
SYSTEM = ("system", "system_prompt")
BESIDE = ("tools", "history", *SYSTEM, *THOUGHTS)
"""What a row may say beside a question, an answer or a conversation."""


class Layout(NamedTuple):
    """A form of rows."""

    columns: tuple[str, ...]
    """That make it."""
    convert: Convert
    beside: tuple[str, ...] = BESIDE
    """Columns that it reads as well, or refuses."""


@dataclass(frozen=True)
class Group:
    """The layouts of one form of training rows, the one to be preferred first."""

    layouts: tuple[Layout, ...]
    keeps_columns: bool = False
    """Every other column stays for the reward functions, but `UNSEEN`."""
    labels: Literal["ignored", "refused", "trained on"] = "ignored"
    """What becomes of a column `label` beside single answers, which says whether each is good."""


THUMBS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""What a column `label` says of an answer."""
UNSEEN = {
    "chosen", "rejected", "completion", "completions", "completion_ids", "prompts", "messages", "conversations",
    "tools", "image", "images", "trainer_state", "log_extra", "log_metric",
}  # fmt: skip
"""Columns that reward functions are not given: GRPO's trainer uses the names itself, or they hold answers."""


def _text(row: Mapping[str, Any]) -> Row:
    return {"text": _string(row, "text")}


def _messages(column: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        _refuse_beside(row, "messages", "history", *THOUGHTS)
        messages = _with_system(row, conversation(row[column]))
        return {"messages": messages, **tools_of(row, messages)}

    return convert


def _prompt_completion(row: Mapping[str, Any]) -> Row:
    prompt, completion = ("" if row[column] is None else row[column] for column in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        _refuse_beside(row, "plain text", *BESIDE)
        return {"prompt": prompt, "completion": completion}
    asked = question(row, "prompt")
    return {"prompt": asked, "completion": _thought(row, _answered(completion)), **tools_of(row, asked)}


def _instruction(answer: str, *asking: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        answered = _thought(row, assistant_turn(_string(row, answer)))
        asked = question(row, *asking)
        return {"prompt": asked, "completion": answered, **tools_of(row, asked)}

    return convert


def _pair(*asking: str) -> Convert:
    """Return the conversion of a pair whose prompt stands in one of the columns `asking`, or in both sides."""

    def convert(row: Mapping[str, Any]) -> Row:
        _refuse_beside(row, "a pair of answers", *THOUGHTS)
        chosen, rejected = row["chosen"], row["rejected"]
        margin = {"margin": _number(row, "margin")} if "margin" in row else {}
        asked = row[asking[0]] if asking else None
        if (
            isinstance(asked, str)
            and len(asked.split()) > 1
            and all(isinstance(side, str) and side.startswith(asked) for side in (chosen, rejected))
        ):  # as sides of messages repeat the question
            chosen, rejected = chosen.removeprefix(asked), rejected.removeprefix(asked)
        plain_prompt = not asking or (asking == ("prompt",) and isinstance(row["prompt"], str))
        if plain_prompt and isinstance(chosen, str) and isinstance(rejected, str):
            _refuse_beside(row, "plain text", *BESIDE)
            sides = {"chosen": chosen, "rejected": rejected}
            return {**({"prompt": row["prompt"], **sides} if asking else _shared_text(**sides)), **margin}
        answers = {"chosen": _answered(chosen), "rejected": _answered(rejected)}
        if not asking or all(answer[0]["role"] in ("system", "user") for answer in answers.values()):
            pair = _shared_turns(row, *asking, **answers)
        else:
            pair = {"prompt": question(row, *asking), **answers}
        return {**pair, **tools_of(row, pair["prompt"]), **margin}

    return convert


def _only_prompt(*asking: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Row:
        if tool_schemas(row.get("tools")):
            raise Malformed(
                "GRPO shows no tools of a row to the model: describe them in its system turn", "tools in GRPO"
            )
        if asking[0] in ("messages", "conversations"):
            _refuse_beside(row, "messages", "history")
            return {"prompt": _before_answer(_with_system(row, conversation(row[asking[0]])))}
        return {"prompt": question(row, *asking), **({} if asking[0] == "prompt" else _solution(row))}

    return convert


def _labelled(conversion: Convert) -> Convert:
    """Return the conversion of an answer with its label; of a conversation the last turn is the answer."""

    def convert(row: Mapping[str, Any]) -> Row:
        converted = conversion(row)
        if messages := converted.pop("messages", None):
            cut = len(messages) - (messages[-1]["role"] == "assistant")
            converted = {"prompt": messages[:cut], "completion": messages[cut:], **converted}
        completion = converted["completion"]
        if isinstance(completion, list) and len(completion) > 1:
            converted |= {"prompt": [*converted["prompt"], *completion[:-1]], "completion": completion[-1:]}
        return {**converted, "label": _label(row)}

    return convert


CONVERSATIONS = (
    Layout(("messages",), _messages("messages")),
    Layout(("conversations",), _messages("conversations")),
)
BELOW = ("input", "context")
"""Columns whose text belongs below the question."""
ANSWERED = (
    Layout(("prompt", "completion"), _prompt_completion),
    *(
        Layout((asking, answer), _instruction(answer, asking, *BELOW), (*BELOW, *BESIDE))
        for asking, answer in (
            ("instruction", "output"), ("instruction", "response"), ("question", "answer"), ("question", "response"),
            ("problem", "solution"), ("query", "response"), ("prompt", "response"),
        )
    ),
)  # fmt: skip
TEXT = Layout(("text",), _text, ())
PAIRS = tuple(
    Layout((*asking[:1], "chosen", "rejected"), _pair(*asking), (*asking[1:], "margin", *BESIDE))
    for asking in (("conversations",), ("prompt",), ("instruction", *BELOW), ("question", *BELOW), ())
)
LAYOUTS: dict[str, Group] = {
    "documents": Group((TEXT,)),
    "conversations": Group((*CONVERSATIONS, *ANSWERED, TEXT), labels="refused"),
    "pairs": Group(PAIRS, labels="refused"),
    "prompts": Group(
        tuple(
            Layout(asking[:1], _only_prompt(*asking), (*asking[1:], *BESIDE))
            for asking in (
                *((asking, *BELOW) for asking in ("prompt", "question", "problem", "query", "instruction")),
                ("messages",), ("conversations",),
            )
        ),
        keeps_columns=True,
    ),
    "labelled": Group(
        (
            *(
                Layout((*columns, "label"), _labelled(convert), beside)
                for columns, convert, beside in (ANSWERED[0], *CONVERSATIONS)
            ),
            *PAIRS,
        ),
        labels="trained on",
    ),
}  # fmt: skip
"""The groups by what `kinds.Kind.layout` calls them."""


def _solution(row: Mapping[str, Any]) -> Row:
    """Return `solution`, the name that TRL's accuracy reward reads, for rows that have only an `answer`.

    GSM8K's answers are worked out, and end in `#### 72`.
    """
    if "solution" in row or "answer" not in row:
        return {}
    try:
        answers = right_answers(row["answer"])
    except Refused:  # an object that a reward of the recipe's may read
        answers = []
    return {"solution": answers[0] if len(answers) == 1 else None}


def _label(row: Mapping[str, Any]) -> bool:
    label = THUMBS.get(str(row["label"]).strip().lower())
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
    if value is None or value != value:  # NaN, as pandas writes what is empty
        return ""
    if not isinstance(value, str):
        quoted = f': write it as "{value}"' if isinstance(value, int | float) else ""
        raise Malformed(f"{column} must be text, not the {type(value).__name__} {value!r:.80}{quoted}")
    return value


def question(row: Mapping[str, Any], *columns: str) -> list[Message]:
    """Return what asks, turns or the texts one below the other, after the system turn; nothing if it is empty."""
    turns, earlier = row[columns[0]], _history(row)
    if isinstance(turns, list | Mapping):
        _refuse_beside(row, "messages", "history", *columns[1:])
    else:
        texts = [_string(row, column) for column in columns if column in row]
        turns = user_turn("\n\n".join(text for text in texts if text.strip())) if any(map(str.strip, texts)) else None
    return _with_system(row, [*earlier, *conversation(turns)]) if turns is not None else []


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Return Alpaca's earlier rounds, each a question and its answer, as turns."""
    rounds = row.get("history") or []
    if isinstance(rounds, str):  # as a .csv has it
        rounds = parsed(rounds, "history", "history that does not parse") if rounds.strip() else []
    if not isinstance(rounds, list) or not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one) for one in rounds
    ):
        raise Malformed(f"history is a list of rounds, each a question and its answer, not {row['history']!r:.80}")
    return [turn for asked, answer in rounds for turn in (*user_turn(asked), *assistant_turn(answer))]


def _answered(value: object) -> list[Message]:
    return assistant_turn(value or "") if isinstance(value, str) or value is None else conversation(value)


def _thought(row: Mapping[str, Any], answer: list[Message]) -> list[Message]:
    """Return an answer with what its row says was thought before it."""
    texts = {text for column in THOUGHTS if (text := _thought_in(row, column))}
    if not texts or not answer or answer[0].get("reasoning_content") in texts:
        return answer
    if len(texts) > 1 or len(answer) > 1 or "reasoning_content" in answer[0]:
        raise Malformed(f"the row says more than once what was thought: {texts!r:.80}", "thoughts of which answer?")
    return [{**answer[0], "reasoning_content": texts.pop()}]


MODES = {"on", "off", "true", "false", "yes", "no", "none", "low", "medium", "high"}
"""What a column named as thoughts are may say instead: whether, or how much, was thought."""


def _thought_in(row: Mapping[str, Any], column: str) -> str:
    """Return what a column says of thoughts; a list of one text is that text."""
    value = row.get(column)
    if isinstance(value, bool):
        return ""
    text = _string({column: value[0] if isinstance(value, list) and len(value) == 1 else value}, column)
    return "" if not text.strip() or text.strip().lower() in MODES else text


def _system(row: Mapping[str, Any]) -> list[Message]:
    texts = {text for column in SYSTEM if column in row and (text := _string(row, column)).strip()}
    if len(texts) > 1:
        raise Malformed(f"the row has two system texts: {sorted(texts)!r:.80}", "two different system turns")
    return [{"role": "system", "content": text} for text in texts]


def _with_system(row: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """Return a conversation after the system turn of its row, which it may begin with already."""
    system = _system(row)
    if not system or turns[0]["role"] != "system":
        return [*system, *turns]
    if turns[0]["content"].strip() != system[0]["content"].strip():
        raise Malformed(
            f"the row's system text, {system[0]['content']!r:.40}, is not the first turn, {turns[0]['content']!r:.40}",
            "two different system turns",
        )
    return turns


def _refuse_beside(row: Mapping[str, Any], what: str, *columns: str) -> None:
    """Refuse a row that says in one of `columns` what cannot be said beside `what` it is."""
    for column in columns:
        value = _thought_in(row, column) if column in THOUGHTS else row.get(column)
        if value and not (isinstance(value, str) and value.strip() in ("", "[]")):
            way = "give prompt and answers as messages" if what == "plain text" else "put it into its turn"
            raise Malformed(
                f"{what} has no place for `{column}`: {way}, or leave it out by columns={{'{column}': None}}",
                f"`{column}` beside {what}",
            )


def tools_of(row: Mapping[str, Any], asked: list[Message]) -> Row:
    """Return the tools of a row, but those that its system turn lists."""
    tools = tool_schemas(row.get("tools"))
    return {"tools": tools if tools and not lists_tools(asked, tools) else None} if "tools" in row else {}


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


def _shared_turns(row: Mapping[str, Any], *asking: str, chosen: list[Message], rejected: list[Message]) -> Row:
    """Return a pair whose sides hold the prompt too; a prompt beside them must be in it."""
    shorter = min(len(chosen), len(rejected))
    cut = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
    shared = chosen[:cut]
    if not cut or any(
        turn["role"] in ("system", "user") for side in (chosen, rejected) for turn in side[cut : cut + 1]
    ):
        raise Malformed("the chosen and the rejected side answer different questions", "sides that begin otherwise")
    asked = question(row, *asking) if asking else _system(row)
    said = [turn["content"].split() for turn in shared]
    if lost := next((turn for turn in asked if turn["role"] == "user" and turn["content"].split() not in said), None):
        raise Malformed(
            f"the prompt says {lost['content']!r:.40}, which the answers, whole conversations, do not begin with",
            "a prompt that the answers do not begin with",
        )
    system = [turn for turn in asked if turn["role"] == "system"]
    if (
        system
        and shared
        and shared[0]["role"] == "system"
        and shared[0]["content"].split() != system[0]["content"].split()
    ):
        raise Malformed("prompt and answers have different system turns", "two different system turns")
    prompt = [*system, *shared] if shared and shared[0]["role"] != "system" else shared
    return {"prompt": prompt, "chosen": chosen[cut:], "rejected": rejected[cut:]}
