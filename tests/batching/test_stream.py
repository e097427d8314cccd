"""One streamed completion: what is written is the completion, which is the engine's, and it can be stopped."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from batching.complete import Completion, sample
from batching.requests import Settings
from batching.stream import END_OF_TEXT, TextStream, stop_ids, stream
from evaluation.scored_model import ScoredModel

TEXT = 'Once upon a time.\n One day \U0001f389 日本 é\n\n  def f(x):\n\treturn "<think>x</think>" , yes .'
PROMPT = "One rainy morning"
NEVER = [10_000]
"""Stops that no model here says. None at all would be the model's own."""


def _stream(checkpoint: ScoredModel, **changed: Any) -> tuple[Completion, list[str]]:
    """Return a completion of the prompt, and the pieces that were written."""
    pieces: list[str] = []
    options: dict[str, Any] = {
        "stops": NEVER, "max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 1,
        "interrupted": threading.Event(),
    }  # fmt: skip
    prompt = checkpoint.encode(PROMPT)
    return stream(checkpoint.model, checkpoint.tokenizer, prompt, pieces.append, **options | changed), pieces


def _by_generate(checkpoint: ScoredModel, **options: Any) -> list[int]:
    prompt = checkpoint.encode(PROMPT)
    output = checkpoint.model.generate(torch.tensor([prompt]), eos_token_id=NEVER, pad_token_id=0, **options)
    return list(output[0, len(prompt) :].tolist())


def test_greedy_is_that_of_transformers_and_always_the_same(checkpoint: ScoredModel) -> None:
    expected = _by_generate(checkpoint, do_sample=False, max_new_tokens=40)
    checkpoint.model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=5.0)
    assert _stream(checkpoint)[0].ids == _stream(checkpoint, seed=2)[0].ids == expected


def test_settings_and_seed_are_those_that_are_asked_for(checkpoint: ScoredModel) -> None:
    prompt = checkpoint.encode(PROMPT)
    how = Settings(40, frozenset(NEVER), 0.7, top_p=0.8)
    (expected,) = sample(checkpoint.model, [prompt], how, seed=5)
    sampling = {"temperature": 0.7, "top_p": 0.8}
    assert _stream(checkpoint, seed=5, **sampling)[0].ids == expected.ids
    assert _stream(checkpoint, seed=6, **sampling)[0].ids != expected.ids
    assert _stream(checkpoint, seed=5, temperature=0.7)[0].ids != expected.ids
    assert _stream(checkpoint, seed=5, top_p=0.8)[0].ids != expected.ids


def test_what_is_written_is_the_completion(checkpoint: ScoredModel) -> None:
    for seed in range(8):
        found, pieces = _stream(checkpoint, temperature=1.0, seed=seed)
        assert found.text == checkpoint.tokenizer.decode(found.ids, skip_special_tokens=True)
        # Random bytes are no characters, and a later one may make earlier ones invalid that have been written.
        pairs = zip("".join(pieces), found.text, strict=True)
        assert all(written == decoded or decoded == "\ufffd" for written, decoded in pairs)
        assert len(pieces) >= 10


def test_any_of_the_stops_ends_it(checkpoint: ScoredModel) -> None:
    free = _stream(checkpoint)[0]
    assert not free.stopped
    place = free.ids.index(free.ids[5])
    found = _stream(checkpoint, stops=[0, free.ids[5]])[0]
    assert found.stopped
    assert found.ids == free.ids[: place + 1]


def test_an_interruption_ends_it_after_the_token_at_hand(checkpoint: ScoredModel) -> None:
    interrupted = threading.Event()
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            interrupted.set()

    prompt = checkpoint.encode(PROMPT)
    options: dict[str, Any] = {"stops": NEVER, "max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 1}
    found = stream(checkpoint.model, checkpoint.tokenizer, prompt, write, interrupted=interrupted, **options)
    assert not found.stopped
    assert len("".join(pieces)) == len(found.text)
    assert found.ids == _stream(checkpoint)[0].ids[: len(found.ids)]
    assert 3 <= len(found.ids) < 40


def test_stops_are_every_eos_the_end_of_text_and_the_templates_end_of_turn(checkpoint: ScoredModel) -> None:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    end_of_text, end_of_turn, other = tokenizer.convert_tokens_to_ids([END_OF_TEXT, "<|im_end|>", "<s>"])
    assert tokenizer.eos_token_id == end_of_turn
    model.generation_config.eos_token_id = [other, 7]
    assert stop_ids(model, tokenizer, chat=False) == sorted([7, other, end_of_text, end_of_turn])
    model.generation_config.eos_token_id = other
    tokenizer.chat_template = tokenizer.chat_template.replace("eos_token", "'<|im_end|>'")
    tokenizer.eos_token = END_OF_TEXT  # as of a base whose template is a chat model's
    assert stop_ids(model, tokenizer, chat=False) == sorted([other, end_of_text])
    assert stop_ids(model, tokenizer, chat=True) == sorted([other, end_of_text, end_of_turn])


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["models/stories260K", "tokenizers/qwen2.5", "tokenizers/smollm2", "tokenizers/minimind"]
)
def test_text_streams_as_it_decodes_with_published_tokenizers(name: str, shared: Path) -> None:
    """Indentation and characters of several tokens included, for which TextStreamer is not enough."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "fixtures" / name)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    pieces: list[str] = []
    written = TextStream(tokenizer, pieces.append)
    for place in range(1, len(ids) + 1):
        written.write(ids[:place])
    assert TEXT.startswith("".join(pieces).strip())
    assert len(pieces) > 20
    written.write([*ids, tokenizer.eos_token_id], last=True)
    assert "".join(pieces) == tokenizer.decode(ids) == TEXT
