"""Token shards: exactly the tokenizer's ids, kept once, whole whatever happened to their maker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data.corpus import shards
from data.corpus.corpus import prepare
from data.corpus.documents import Options
from data.corpus.shards import bytes_of_tokens, cut, tokenised
from data.corpus.store import Store
from data.examples import document
from tests.data.corpus.conftest import Write, tales
from utils.errors import Refused

ROOT = Path(__file__).resolve().parents[3]
ODD = ["naïve – 中文", "😀 👩‍👩‍👧 🇩🇪 end", "\u00e9", "  spaces   and\ttabs", "x" * 300]


@pytest.fixture
def store(write: Write) -> Store:
    return prepare(str(write("a.txt", [*tales(300), *ODD]))).parts[0].store


def real_tokenizer(shared: Path, name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "fixtures" / "tokenizers" / name)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "dtype"), [("minimind", np.uint16), ("smollm2", np.uint16), ("qwen2.5", np.uint32)])
def test_a_shard_holds_the_tokenizers_ids_and_an_end_for_each_document(
    store: Store, shared: Path, name: str, dtype: Any
) -> None:
    tokenizer = real_tokenizer(shared, name)
    tokenizer("left over", truncation=True, max_length=1, padding="max_length")  # does not reach the shard
    shard = tokenised(store, "train", tokenizer)
    assert shard.tokens.values.dtype == dtype
    texts = list(store.texts("train").texts())
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert [shard.tokens[index].tolist() for index in range(len(texts))] == [[*ids, end] for ids in expected]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["minimind", "smollm2"])
def test_bytes_are_counted_from_the_second_token_on_as_the_evaluation_does(shared: Path, name: str) -> None:
    tokenizer = real_tokenizer(shared, name)
    for text in [*tales(20), *ODD]:
        found = bytes_of_tokens(text, tokenizer.backend_tokenizer.encode(text, add_special_tokens=False))
        _, expected = document(tokenizer, text, 10_000)
        assert (found.sum(), found[1:].sum()) == (len(text.encode()), expected), text


def test_token_bytes_by_hand(store: Store, tokenizer: PreTrainedTokenizerBase) -> None:
    encoding = tokenizer.backend_tokenizer.encode("aé中😀")  # one token a byte; a character's last one has its bytes
    assert bytes_of_tokens("aé中😀", encoding).tolist() == [1, 0, 2, 0, 0, 3, 0, 0, 0, 4]
    shard = tokenised(store, "validation", tokenizer, token_bytes=True)
    assert shard.token_bytes is not None
    assert len(shard.token_bytes) == len(shard.tokens.values)
    assert shard.token_bytes.sum() == store.texts("validation").lengths.sum()


def test_some_documents_only(store: Store, tokenizer: PreTrainedTokenizerBase) -> None:
    whole, some = tokenised(store, "train", tokenizer), tokenised(store, "train", tokenizer, np.array([3, 7]))
    assert [some.tokens[n].tolist() for n in range(2)] == [whole.tokens[n].tolist() for n in (3, 7)]
    assert some.directory != whole.directory


def test_a_long_document_is_tokenised_in_pieces_and_is_one_document(
    write: Write, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PIECE_CHARS", 50)
    monkeypatch.setattr(shards, "BATCH_CHARS", 120)
    long = "\n".join(tales(30))
    assert cut("a b\nc" + "d" * 60) == ["a b", "\nc" + "d" * 48, "d" * 12]
    assert max(map(len, cut(long))) <= 50
    assert "".join(cut(long)) == long
    store = prepare(str(write("a.txt", [*tales(100), long]))).parts[0].store
    shard = tokenised(store, "train", tokenizer, token_bytes=True)
    for index, text in enumerate(store.texts("train").texts()):
        assert shard.tokens[index].tolist() == [*tokenizer(text)["input_ids"], 0]


def test_a_readable_sample_lies_beside_the_tokens(store: Store, tokenizer: PreTrainedTokenizerBase) -> None:
    sample = (tokenised(store, "train", tokenizer).directory / "sample.txt").read_text()
    assert "T|a|l|e| |" in sample
    assert "<|endoftext|>|" in sample


def test_another_tokenizer_makes_another_shard_and_the_same_one_none(
    store: Store, tokenizer: PreTrainedTokenizerBase, make_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    other = make_tokenizer("<pad>", "<|endoftext|>", pad_token="<pad>")
    first, again, second = (tokenised(store, "train", each).directory for each in (tokenizer, tokenizer, other))
    assert first == again != second


def test_a_tokenizer_without_an_end_is_refused(
    store: Store, make_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    with pytest.raises(Refused, match="no document would end"):
        tokenised(store, "train", make_tokenizer("<pad>", pad_token="<pad>"))


def test_a_damaged_shard_is_made_again(store: Store, tokenizer: PreTrainedTokenizerBase) -> None:
    shard = tokenised(store, "train", tokenizer)
    expected, file = shard.tokens.values.copy(), shard.directory / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    assert np.array_equal(tokenised(store, "train", tokenizer).tokens.values, expected)


SCRIPT = """
import os, sys, time
sys.path.insert(0, {root!r})
from transformers import AutoTokenizer
from data.corpus import ragged
from data.corpus.corpus import prepare
from data.corpus.documents import Options
from data.corpus.shards import tokenised
if len(sys.argv) > 1:  # die in the middle of writing
    append = ragged.Writer.append
    def stall(self, values):
        append(self, values)
        if self._path.name == "tokens":
            open(sys.argv[1], "w").close()
            time.sleep(60)
    ragged.Writer.append = stall
store = prepare({data!r}).parts[0].store
shard = tokenised(store, "train", AutoTokenizer.from_pretrained({tokenizer!r}))
print(shard.directory.name, int(shard.tokens.values.sum()))
"""


@pytest.mark.slow
def test_a_killed_start_and_then_two_at_once_leave_one_whole_shard(
    write: Write, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, cache_root: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = str(write("a.txt", tales(300)))
    script = SCRIPT.format(root=str(ROOT), data=data, tokenizer=str(tmp_path / "tokenizer"))
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "began")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path.suffix for path in (cache_root / "tokens").iterdir() if path.is_dir()] == [".partial"]
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=100)[0].splitlines() for process in both]
    shard = tokenised(prepare(data).parts[0].store, "train", tokenizer)
    assert {lines[-1] for lines in said} == {f"{shard.directory.name} {int(shard.tokens.values.sum())}"}
    assert sum("tokenise" in line for lines in said for line in lines) == 2, "one bar's first and last line"
    assert [path.name for path in (cache_root / "tokens").iterdir()] == [shard.directory.name]
    assert json.loads((shard.directory / "meta.json").read_text())["documents"] == len(shard.tokens)


def test_the_end_of_text_inside_a_document_is_read_as_text(
    tmp_path: Path, make_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make_tokenizer("<|endoftext|>", eos_token="<|endoftext|>")
    texts = [f"GPT-2 ends text {n} with <|endoftext|>, so it does." for n in range(40)] + [
        f"Plain {n}." for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    store = prepare(str(tmp_path / "rows.jsonl")).parts[0].store
    shard = tokenised(store, "train", tokenizer, token_bytes=True)
    end = tokenizer.eos_token_id
    for index in range(len(shard.tokens)):
        ids = shard.tokens[index].tolist()
        assert ids.index(end) == len(ids) - 1
        assert tokenizer.decode(ids[:-1]) == store.texts("train").text(index)
    assert shard.token_bytes is not None
    assert shard.token_bytes.sum() == sum(len(store.texts("train").text(i).encode()) for i in range(len(shard.tokens)))
    said = " ".join(capsys.readouterr().out.split())
    assert "documents of train hold <|endoftext|> inside, which is read as text" in said


def test_control_tokens_inside_a_document_are_counted_and_those_of_conversations_are_not(
    tmp_path: Path, make_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>", eos_token="<|endoftext|>")
    for name, text in (("prose", "Turn {} begins with <|im_start|>."), ("chat", "<|im_start|>user\n{}<|im_end|>\n")):
        rows = "".join(json.dumps({"text": text.format(n)}) + "\n" for n in range(80))
        (tmp_path / f"{name}.jsonl").write_text(rows)
        tokenised(prepare(str(tmp_path / f"{name}.jsonl")).parts[0].store, "train", tokenizer)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"prose\S*: (\d+) of \1 documents of train hold control tokens of the tokenizer inside", said)
    assert not re.search(r"chat\S*: \d+ of \d+ documents", said)


def test_a_separator_parts_the_texts_of_rows_too(tmp_path: Path) -> None:
    rows = ({"text": f"One {n}.<|endoftext|>Two {n}.\n"} for n in range(60))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare(str(tmp_path / "rows.jsonl"), Options(separator="<|endoftext|>"))
    assert sum(corpus.count(split) for split in ("train", "validation", "test")) == 120
