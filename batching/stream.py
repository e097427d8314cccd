"""One completion whose text is handed on while it is sampled, and which can be stopped."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batching.complete import Completion, finish
from batching.requests import Request, Settings
from data.chat import align_eos
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
    text = TextStream(tokenizer, write)

    def take(request: Request) -> bool:
        text.write(request.ids)
        return interrupted.is_set()

    request = Request(prompt, Settings(max_new_tokens, frozenset(stops), temperature, top_p=top_p), seed, on_token=take)
    finish(model, [request])
    text.write(request.ids, last=True)
    return Completion(text_of(tokenizer, request.ids), request.ids, request.stopped)


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


class TextStream:
    """Writes the text of a growing completion, as soon as no later token can change it.

    transformers' TextStreamer decodes each line for itself: a tokenizer that drops the first space of a text loses the
    indentation.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", write: Callable[[str], Any]) -> None:
        self.tokenizer, self._write, self._written = tokenizer, write, 0

    def write(self, ids: list[int], last: bool = False) -> None:
        """Write what is new in the text of all tokens so far; of the `last`, half a character too."""
        text = text_of(self.tokenizer, ids)
        if not last:
            text = text.rstrip("\ufffd")
        if len(text) > self._written:
            self._write(text[self._written :])
            self._written = len(text)
