"""Which tokens of a held-out row count."""

from pathlib import Path
from typing import Any

import pytest

from data.examples import Example, common_prefix_length, completion, demonstration, document, prompt_of
from data.made import rows
from evaluation.scored_model import load_tokenizer

ASK = [{"role": "user", "content": "What is 2 plus 3?"}]
SAY = [{"role": "assistant", "content": "It is 5."}]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Any:
    return load_tokenizer(tokenizer_dir)


def scored_text(tokenizer: Any, example: Example) -> str:
    scored = [token for token, counts in zip(example.input_ids, example.scored, strict=True) if counts]
    return str(tokenizer.decode(scored))


def test_every_assistant_turn_counts_with_its_end_and_nothing_else(tokenizer: Any) -> None:
    row = next(row for row in rows("conversations", "eval") if len(row["messages"]) > 3)
    said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert scored_text(tokenizer, demonstration(tokenizer, row)) == "".join(text + "<|im_end|>" for text in said)


def test_only_the_completion_counts(tokenizer: Any) -> None:
    earlier = [*ASK, *SAY, *ASK]
    assert scored_text(tokenizer, completion(tokenizer, earlier, SAY)) == "It is 5.<|im_end|>"
    assert scored_text(tokenizer, demonstration(tokenizer, {"prompt": ASK, "completion": SAY})) == "It is 5.<|im_end|>"


def test_plain_text_ends_with_eos_once(tokenizer: Any) -> None:
    assert scored_text(tokenizer, completion(tokenizer, "Two and", " three")) == " three<|im_end|>"
    assert scored_text(tokenizer, completion(tokenizer, "Two and", " three<|im_end|>")) == " three<|im_end|>"


def test_all_of_a_text_counts_but_its_first_token(tokenizer: Any) -> None:
    example = demonstration(tokenizer, {"text": "One day"})
    assert tokenizer.decode(example.input_ids) == "One day<|im_end|>"
    assert example.scored == [False] + [True] * (len(example.input_ids) - 1)


def test_bytes_of_a_document_are_those_of_its_scored_tokens(tokenizer: Any) -> None:
    text = "12345 naïve"
    example, n_bytes = document(tokenizer, text, 100)
    assert tokenizer.decode(example.input_ids[1:]) == text[1:]
    assert n_bytes == len("2345 naïve".encode()) == 11
    cut, n_bytes = document(tokenizer, text, 4)
    assert tokenizer.decode(cut.input_ids) == "1234"
    assert n_bytes == 3


def test_a_row_without_a_question_has_no_prompt() -> None:
    assert prompt_of({"messages": [*ASK, *SAY]}) == (ASK, None)
    assert prompt_of({"messages": [*ASK, *SAY, *ASK, *SAY], "tools": [1]}) == ([*ASK, *SAY, *ASK], [1])
    assert prompt_of({"prompt": "Two and"}) == ("Two and", None)
    assert prompt_of({"messages": SAY}) is None
    assert prompt_of({"text": "One day"}) is None


def test_common_prefix() -> None:
    assert common_prefix_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix_length([1, 2], [1, 2, 3]) == 2
    assert common_prefix_length([], [1]) == 0
