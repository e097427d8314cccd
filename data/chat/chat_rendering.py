"""The one chat rendering: what SFT, reward, DPO, GRPO, evaluation and chat show the model."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from data.chat.template import CHAT_TEMPLATE
from data.messages import THOUGHTS
from utils import strict_json
from utils.console import warn
from utils.errors import Refused

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

PAD_TOKENS = (
    "<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|vision_pad|>",
)  # fmt: skip
"""Tokens that vocabularies have for padding, or that no text of ours contains."""
SPARE_WORDS = ("reserved", "unused", "extra_id", "dummy")

TURN_END = "<|im_end|>"
PROBE = "8b1e"
"""A text that no template contains."""
CALL_ID = "8b1e00001"
"""Of the nine letters and digits that Mistral's templates want."""


def prepare_tokenizer(tokenizer: "PreTrainedTokenizerBase", *, template: Literal["give", "need"]) -> None:
    """Make `tokenizer` fit for chat: a template, an EOS that is what its assistant turns end with, a pad apart from it.

    `give` sets the project's template where there is none, `need` refuses. Changes the tokenizer in place, and says
    what it changed.

    Raises:
        Refused: there is no template and one is needed, or no token can end a turn or pad.
    """
    if tokenizer.chat_template is None:
        if template == "need":
            raise Refused(
                f"{tokenizer.name_or_path} has no chat template, which this stage needs: train the model with the sft "
                "stage first, which gives it one, or name a chat model."
            )
        if TURN_END in tokenizer.get_vocab():
            tokenizer.eos_token = TURN_END
        if tokenizer.eos_token is None:
            raise Refused(
                "this tokenizer has no EOS token to end a turn with: set `eos_token` in tokenizer_config.json."
            )
        tokenizer.chat_template = ("{{- bos_token }}" if adds_bos(tokenizer) else "") + CHAT_TEMPLATE
        warn(f"the model had no chat template: it gets the project's own; turns end with {tokenizer.eos_token!r}.")
    align_eos(tokenizer)
    separate_pad_from_eos(tokenizer)


def align_eos(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the token that the template ends an assistant turn with the EOS: base models often name another one.

    Without it a chat-tuned base model generates past the end of its turn.
    """
    rendered = render(tokenizer, [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}])
    after = tokenizer(rendered.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # The second token counts too: some tokenizers mark the start of any text with a space.
    ends = [token for token in tokenizer.convert_ids_to_tokens(after[:2]) if token in special]
    if ends and ends[0] != tokenizer.eos_token:
        warn(f"EOS becomes {ends[0]!r}, with which the chat template ends a turn (it was {tokenizer.eos_token!r}).")
        tokenizer.eos_token = ends[0]


def separate_pad_from_eos(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give a tokenizer whose pad is missing, or its EOS, another pad out of its own vocabulary.

    Where padding is masked, a pad that is also EOS hides the EOS from training, and the model never learns to stop.

    Raises:
        Refused: there is no EOS, or the vocabulary has no token to spare.
    """
    if tokenizer.eos_token is None:
        raise Refused(
            "this tokenizer has no EOS token to end an answer with: set `eos_token` in tokenizer_config.json."
        )
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    spare = [token for token in special if any(word in token.lower() for word in SPARE_WORDS)]
    candidates = [*(token for token in PAD_TOKENS if token in vocabulary), tokenizer.unk_token, *spare]
    taken = {None, tokenizer.eos_token, tokenizer.bos_token if adds_bos(tokenizer) else None}
    free = [token for token in candidates if token not in taken]
    if free:
        warn(f"padding with {free[0]!r}, apart from EOS (pad was {tokenizer.pad_token!r}).")
        tokenizer.pad_token = free[0]
        return
    raise Refused(
        f"this tokenizer has no token to pad with apart from its EOS {tokenizer.eos_token!r}: add one with "
        "tokenizer.add_special_tokens({'pad_token': '<pad>'}), resize the model's embeddings, and save both."
    )


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether the tokenizer itself puts its BOS before plain text."""
    return tokenizer.bos_token_id is not None and tokenizer(PROBE)["input_ids"][0] == tokenizer.bos_token_id


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | str | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """Return the conversation as the text that the model sees; `tools` are JSON schemas, or their JSON.

    The text holds every special token that belongs to it, BOS too: tokenize it with `add_special_tokens=False`, or use
    `encode`.
    """
    if isinstance(tools, str):
        tools = strict_json.read(tools)
    if any("reasoning_content" in message for message in messages):
        messages = with_thoughts_as(messages, key_of_thoughts(tokenizer))
    return _by_template(tokenizer, messages, tools, add_generation_prompt)


def _by_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], tools: Any = None, add_prompt: bool = False
) -> str:
    text = tokenizer.apply_chat_template(
        list(messages), tools=tools or None, add_generation_prompt=add_prompt, tokenize=False
    )
    return str(text)


def key_of_thoughts(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the key of a turn whose thoughts the template shows; None if it shows none that stand by themselves."""
    return next((key for key in THOUGHTS if shows_thoughts(tokenizer, key=key)), None)


def shows_thoughts(
    tokenizer: "PreTrainedTokenizerBase", *, key: str | None = "reasoning_content", earlier: bool = False
) -> bool:
    """Tell whether the template shows what an assistant's last turn thinks, or an `earlier` one.

    That stands under `key`, or for None between `<think>` and `</think>` in its content, which some templates cut out.
    """
    asked: Message = {"role": "user", "content": "?"}
    thinking: Message = {"role": "assistant", "content": "!", "reasoning_content": PROBE}
    thinking = with_thoughts_as([thinking], key)[0]
    answered: Message = {"role": "assistant", "content": "!"}
    turns = [asked, thinking, asked, answered] if earlier else [asked, thinking]
    from jinja2 import TemplateError

    try:
        return PROBE in _by_template(tokenizer, turns)
    except TemplateError:  # which is told where the rows themselves are shown
        return True


def with_thoughts_as(messages: Sequence[Message], key: str | None) -> list[Message]:
    """Return a conversation with its thoughts under `key`, or for None as `<think>` blocks before the answers."""

    def with_thought(message: Message) -> Message:
        thought = message.get("reasoning_content")
        if not thought:
            return message
        rest = {name: value for name, value in message.items() if name != "reasoning_content"}
        written = f"<think>\n{thought}\n</think>\n\n{message['content']}"
        return {**rest, key: thought} if key else {**rest, "content": written}

    return [with_thought(message) for message in messages]


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str | Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | str | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Return the token ids of a prompt: a conversation through the template, a string as plain text; never two BOS.

    `tools` and `add_generation_prompt` are for conversations.
    """
    if not isinstance(prompt, str):
        text = render(tokenizer, prompt, tools, add_generation_prompt)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    has_bos = tokenizer.bos_token is not None and adds_bos(tokenizer) and prompt.startswith(tokenizer.bos_token)
    return list(tokenizer(prompt, add_special_tokens=not has_bos)["input_ids"])


def refuse_unknown(tokenizer: "PreTrainedTokenizerBase", n_embeddings: int, texts: Iterable[Sequence[int]]) -> None:
    """Refuse texts, as token ids, that hold a token for which the model has no embedding.

    Raises:
        Refused: one does: the tokenizer was given tokens, and the model was not resized.
    """
    unknown = sorted({token for ids in texts for token in ids if token >= n_embeddings})
    if unknown:
        named = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in unknown[:5])
        raise Refused(
            f"the model has embeddings for {n_embeddings} tokens, and none for {named}, while the tokenizer has "
            f"{len(tokenizer)}: resize the model, by model.resize_token_embeddings(len(tokenizer)), and save it, or "
            "leave these tokens out."
        )


def check_thoughts_render(tokenizer: "PreTrainedTokenizerBase", rows: "Dataset") -> None:
    """Refuse rows with thoughts that the template leaves out, however they are given to it.

    Raises:
        Refused: training would never see them.
    """
    from data.layouts import may_say

    columns = [name for name in ("messages", "completion", "chosen", "rejected") if name in rows.column_names]

    def first(text: str, thinks: Callable[[Message], bool]) -> int | None:
        if not may_say(rows, text, *columns):
            return None
        turns = ((n, turn) for n, row in enumerate(rows, 1) for name in columns for turn in row[name])
        return next((n for n, turn in turns if turn["role"] == "assistant" and thinks(turn)), None)

    if not any(may_say(rows, text, *columns) for text in ('"reasoning_content"', "</think>")):
        return
    apart = key_of_thoughts(tokenizer)
    if shows_thoughts(tokenizer, key=None):
        return
    number = None if apart else first('"reasoning_content"', lambda turn: "reasoning_content" in turn)
    if number is None:
        number = first("</think>", lambda turn: "</think>" in turn["content"])
    if number is not None:
        way = "give them as reasoning_content, which it shows" if apart else "name a model whose template shows them"
        raise Refused(
            f"row {number} has thoughts, and this model's chat template cuts out what stands before </think>: {way}."
        )


def check_system_renders(tokenizer: "PreTrainedTokenizerBase", rows: "Dataset") -> None:
    """Refuse rows with a system turn that the template leaves out.

    Raises:
        Refused: training would never see it.
    """
    from jinja2 import TemplateError

    from data.layouts import may_say

    columns = [name for name in ("messages", "prompt") if name in rows.column_names]
    if not may_say(rows, '"system"', *columns):
        return
    asked: list[Message] = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
    with suppress(TemplateError):  # which is told where the rows themselves are shown
        if PROBE not in _by_template(tokenizer, asked):
            number = next(
                (n for n, row in enumerate(rows, 1) if row[columns[0]][:1] and row[columns[0]][0]["role"] == "system"),
                0,
            )
            if number:
                raise Refused(
                    f"row {number} has a system turn, and this model's chat template leaves it out: put its text into "
                    "the user's first turn, take it out, or name a model whose template shows it."
                )


def tell_control_tokens(tokenizer: "PreTrainedTokenizerBase", rows: "Dataset") -> None:
    """Say how many rows hold control tokens of the tokenizer inside their turns, which are read as such."""
    from data.layouts import may_say

    columns = [name for name in ("messages", "prompt", "completion", "chosen", "rejected") if name in rows.column_names]
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not may_say(rows, special, *columns):
        return
    tokens = re.compile("|".join(map(re.escape, special)))
    within = ((n, turn["content"]) for n, row in enumerate(rows, 1) for name in columns for turn in row[name])
    of_rows = [(number, token) for number, text in within for token in tokens.findall(text)]
    if of_rows:
        numbers, found = sorted({number for number, _ in of_rows}), sorted({token for _, token in of_rows})
        warn(
            f"{len(numbers)} of {len(rows)} rows, the first of them row {numbers[0]}, hold {', '.join(found)} inside "
            "their turns: control tokens of the tokenizer, and read as such. If they are text, write them otherwise"
        )


def check_tools_render(tokenizer: "PreTrainedTokenizerBase", rows: "Dataset") -> None:
    """Refuse rows with tools or tool calls when the tokenizer's template leaves calls out, as simple templates do.

    Raises:
        Refused: training would never see the calls, or the template cannot show them.
    """
    columns = [name for name in ("prompt", "messages", "completion", "chosen", "rejected") if name in rows.column_names]

    def calls(row: Mapping[str, Any]) -> bool:
        turns = (turn for name in columns if isinstance(row[name], list) for turn in row[name])
        return bool(row.get("tools")) or any(turn.get("tool_calls") for turn in turns)

    from data.layouts import may_say

    number = None
    if "tools" in rows.column_names or may_say(rows, '"tool_calls"', *columns):
        number = next((number for number, row in enumerate(rows, 1) if calls(row)), None)
    if number is None:
        return
    from jinja2 import TemplateError

    call = {"type": "function", "id": CALL_ID, "function": {"name": PROBE, "arguments": {}}}
    asked: Message = {"role": "user", "content": "?"}
    calling: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        shown, why = PROBE in _by_template(tokenizer, [asked, calling]), "leaves tool calls out"
    except TemplateError as error:
        shown, why = False, f"cannot show a tool call: {error}"
    if not shown:
        raise Refused(
            f"row {number} has tools, and this model's chat template {why}. Remove the rows with tools, or name a "
            "model whose template shows them, as Qwen2.5's does."
        )
    tool = {"type": "function", "function": {"name": PROBE, "description": "?", "parameters": {"type": "object"}}}
    if "tools" in rows.column_names and any(rows["tools"]):
        with suppress(TemplateError):
            if PROBE not in _by_template(tokenizer, [asked], [tool]):
                warn("the chat template shows the calls of tools, but not the tools that a row offers")
