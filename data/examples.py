"""Held-out rows as token ids, each token marked as scored or not. The rendering is the one that training uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.chat import Message, encode
from data.messages import is_learnt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One sequence; `scored[i]` says whether token i counts. The first token never does: nothing comes before it."""

    input_ids: list[int]
    scored: list[bool]

    def __post_init__(self) -> None:
        assert len(self.input_ids) == len(self.scored), (len(self.input_ids), len(self.scored))
        assert not any(self.scored[:1]), "the first token cannot be predicted"


def document(tokenizer: "PreTrainedTokenizerBase", text: str, max_tokens: int) -> tuple[Example, int]:
    """Return the first `max_tokens` tokens of a text, all scored but the first, and the UTF-8 bytes they spell."""
    encoded = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=max_tokens)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    spans = [(start, end) for start, end in offsets[1:] if end > start]  # special tokens spell nothing
    n_bytes = len(text[spans[0][0] : spans[-1][1]].encode()) if spans else 0
    return Example(list(ids), [index > 0 for index in range(len(ids))]), n_bytes


def demonstration(tokenizer: "PreTrainedTokenizerBase", row: Row) -> Example:
    """Return an SFT row with what an assistant should say scored, the end of turns included; of a plain text, all."""
    if "messages" in row:
        return _assistant_turns(tokenizer, row["messages"], row.get("tools"), start=0)
    if "prompt" in row:
        return completion(tokenizer, row["prompt"], row["completion"], row.get("tools"))
    ids = encode(tokenizer, row["text"])
    if ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    return Example(ids, [index > 0 for index in range(len(ids))])


def completion(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str | Sequence[Message],
    answer: str | Sequence[Message],
    tools: Any = None,
) -> Example:
    """Return prompt and answer, strings or messages, with the answer scored up to its EOS."""
    if not isinstance(prompt, str):
        assert not isinstance(answer, str), "a conversation is completed by messages"
        return _assistant_turns(tokenizer, [*prompt, *answer], tools, start=len(prompt))
    assert isinstance(answer, str), "a string is completed by a string"
    ids = encode(tokenizer, prompt + answer)
    if ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    first = max(1, common_prefix_length(encode(tokenizer, prompt), ids))
    return Example(ids, [index >= first for index in range(len(ids))])


def _assistant_turns(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], tools: Any, *, start: int
) -> Example:
    """Score the assistant's turns from message `start` on, found by rendering the conversation up to each."""
    ids = encode(tokenizer, messages, tools, add_generation_prompt=False)
    scored = [False] * len(ids)
    for turn in range(start, len(messages)):
        if messages[turn]["role"] != "assistant" or not is_learnt(messages[turn]):
            continue
        prompt_ids = encode(tokenizer, messages[:turn], tools) if turn else []
        until = ids if turn == len(messages) - 1 else encode(
            tokenizer, messages[: turn + 1], tools, add_generation_prompt=False
        )  # fmt: skip
        first, last = max(1, common_prefix_length(prompt_ids, ids)), common_prefix_length(until, ids)
        ends = [index for index in range(first, last) if ids[index] == tokenizer.eos_token_id]
        last = ends[-1] + 1 if ends else last  # templates put a line break after the turn, which nobody has to say
        scored[first:last] = [True] * (last - first)
    return Example(ids, scored)


def prompt_of(row: Row) -> tuple[str | Sequence[Message], Any] | None:
    """Return what a row asks, and its tools; None if it asks nothing.

    That is its prompt, or its messages before the last assistant turn.
    """
    if "prompt" in row:
        return row["prompt"], row.get("tools")
    messages = row.get("messages") or []
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return (messages[: turns[-1]], row.get("tools")) if turns and turns[-1] > 0 else None


def common_prefix_length(ids: Sequence[int], other_ids: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    pairs = zip(ids, other_ids, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(other_ids)))
