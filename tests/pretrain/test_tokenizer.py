"""The tokenizer: one training, the same ids from SentencePiece, tokenizers and transformers."""

from pathlib import Path
from typing import Any

import pytest

from data.made import rows
from pretrain import tokenizer as made

SAMPLES = (
    "Ada has 34 pears.  Two  spaces, and a tab:\tend",
    "def f(x):\n    return x ** 2  # code\n",
    "naïve café – 中文 日本語 한국어",
    "😀 👩‍👩‍👧 🇩🇪",
    "\x01\x1f control\r\nline",
    "<think>4+7=11</think>\nAnswer: 11",
    '<tool_call>\n{"name": "calculator"}\n</tool_call>',
    "12345.678e-9",
    " leading and trailing ",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = [row["text"] for row in rows("documents", "train", 2000, 0)]
    return made.train_tokenizer(texts, 600, directory), directory


def test_all_three_libraries_give_the_same_ids(trained: tuple[Any, Path]) -> None:
    import sentencepiece
    import tokenizers
    from transformers import AutoTokenizer

    _, directory = trained
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    plain = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(directory)
    made_texts = [row["text"] for row in rows("documents", "eval", 200, 3)]
    for text in [*SAMPLES, *(text for text in made_texts if "<|im_" not in text)]:
        ids = pieces.encode(text)
        assert plain.encode(text, add_special_tokens=False).ids == ids, text
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids, text
        assert loaded.decode(ids) == text


def test_digits_stand_alone_and_tags_are_one_token(trained: tuple[Any, Path]) -> None:
    tokenizer, _ = trained
    assert tokenizer.tokenize("4821") == ["4", "8", "2", "1"]
    for tag in made.TAGS:
        assert tokenizer.tokenize(f"a{tag}b")[1:-1] == [tag]


def test_tags_survive_decoding_without_special_tokens_and_turn_ends_do_not(trained: tuple[Any, Path]) -> None:
    tokenizer, _ = trained
    ids = tokenizer("<think>4+7=11</think>\n11<|im_end|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>4+7=11</think>\n11"
    assert ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_vocabulary_has_the_size_that_was_asked_for(trained: tuple[Any, Path]) -> None:
    assert len(trained[0]) == 600


def test_a_size_that_the_text_cannot_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the text has pieces for at most \d+: --set vocab_size="):
        made.train_sentencepiece(["a short text"], 5000)
    with pytest.raises(ValueError, match=r"its characters alone need \d+: take a larger vocab_size"):
        made.train_sentencepiece(["a short text"], 100)


def test_merges_are_listed_in_order_of_preference_with_every_split() -> None:
    pieces = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    assert made.merges_of(pieces, 3) == [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]
