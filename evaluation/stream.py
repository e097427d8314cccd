"""One completion whose text is handed on while it is sampled, and which can be stopped."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from data.chat import align_eos
from evaluation.generate import GREEDY, SAMPLED, Completion
from utils.console import console

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
"""Ends a document in our pretraining and in that of many published models, whatever their EOS is."""


def stream(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: list[int],
    write: Callable[[str], Any],
    *,
    stops: list[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    interrupted: threading.Event,
) -> Completion:
    """Return the completion of one prompt (token ids); `write` gets its text, piece by piece.

    It ends with a token of `stops`, after `max_new_tokens`, or when `interrupted` is set. Temperature 0 is greedy. What
    the model's own generation config says of sampling is left aside, as everywhere in the project.
    """
    how = SAMPLED | {"temperature": temperature, "top_p": top_p} if temperature else GREEDY
    pad = tokenizer.pad_token_id or 0  # one row has no padding, but transformers wants to know
    input_ids = torch.tensor([prompt], device=model.device)
    torch.manual_seed(seed)
    with torch.inference_mode():
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens, eos_token_id=stops or None, pad_token_id=pad, **how
            ),
            streamer=TextStream(tokenizer, write),
            stopping_criteria=StoppingCriteriaList(
                [lambda rows, *_, **__: torch.full((len(rows),), interrupted.is_set(), device=rows.device)]
            ),
        )
    ids = output[0, len(prompt) :].tolist()
    return Completion(text_of(tokenizer, ids), ids, ids[-1] in stops)


def stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, chat: bool) -> list[int]:
    """Return the tokens that end an answer: EOS by tokenizer and generation config, end of text, end of turn."""
    named = model.generation_config.eos_token_id
    found = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id}
    if chat:
        with console().capture():  # what it says concerns training
            align_eos(tokenizer)
    return sorted((found | {tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_TEXT)}) - {None})


def text_of(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """Return the text of a completion, without special tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class TextStream(BaseStreamer):
    """What transformers' `generate` gives its tokens to: writes their text as soon as no later token can change it.

    TextStreamer decodes each line for itself: a tokenizer that drops the first space of a text loses the indentation.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", write: Callable[[str], Any]) -> None:
        self.tokenizer, self._write = tokenizer, write
        self._ids: list[int] | None = None
        self._written = 0

    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens; the first call brings the prompt."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        self._write_up_to(text_of(self.tokenizer, self._ids).rstrip("\ufffd"))  # it may be half a character

    def end(self) -> None:
        """Write what is left."""
        self._write_up_to(text_of(self.tokenizer, self._ids or []))

    def _write_up_to(self, text: str) -> None:
        if len(text) > self._written:
            self._write(text[self._written :])
            self._written = len(text)
