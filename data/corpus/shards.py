"""Token shards: the documents of one split of one source as token ids, memory-mapped, each ended by end-of-text."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.corpus.cache import key_of, made_once, root
from data.corpus.meter import metered
from data.corpus.ragged import Ragged, Writer, mapped
from data.corpus.store import Store
from utils.errors import Refused

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

VERSION = "1"
END_OF_TEXT = "<|endoftext|>"
BATCH_CHARS = 1 << 21
"""Text in the tokenizer's hands at once; an encoding takes about a hundred bytes a token, and two are in memory."""
PIECE_CHARS = 1 << 17
"""Longer documents are tokenised in pieces of that length, so that one book does not occupy one core alone."""
SAMPLE_DOCUMENTS, SAMPLE_TOKENS = 5, 200


@dataclass(frozen=True)
class Shard:
    """Token ids of documents, in the order of the documents."""

    directory: Path
    tokens: Ragged
    text_bytes: NDArray[np.int64]
    """UTF-8 bytes of each document."""
    token_bytes: NDArray[np.uint32] | None
    """UTF-8 bytes of text that each token stands for, 0 for end-of-text; of held-out shards only."""
    pad_token_id: int


def tokenised(
    store: Store,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    indices: NDArray[np.int64] | None = None,
    *,
    token_bytes: bool = False,
) -> Shard:
    """Return the shard of a split's documents, of those at `indices` only if that is given; made once and kept.

    Kept beside it is `sample.txt`, in which a person sees the first documents and where their tokens end.

    Raises:
        Refused: the tokenizer has no token to end a document with or to pad with, or the disk is full.
    """
    end, backend = end_of_text_id(tokenizer), _own_copy(tokenizer)
    texts = store.texts(split)
    if indices is None or len(indices) == len(texts):
        indices = np.arange(len(texts))
    chosen = sha256(indices.tobytes()).hexdigest()
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    key = key_of(VERSION, store.key, split, chosen, backend.to_str(), end, token_bytes)
    directory = root() / "tokens" / key

    def write(partial: Path) -> dict[str, Any]:
        _write(partial, texts, indices, backend, end, dtype, token_bytes, f"tokenise {store.name}, {split}")
        _write_sample(partial, f"{store.name}, {split}", Ragged(partial / "tokens", dtype), tokenizer)
        return {"name": store.name, "split": split, "documents": len(indices), "dtype": dtype.name}

    made_once(directory, f"the tokens of {store.name}, {split}", write)
    return Shard(
        directory=directory,
        tokens=Ragged(directory / "tokens", dtype),
        text_bytes=texts.lengths[indices],
        token_bytes=mapped(directory / "token_bytes.bin", np.uint32) if token_bytes else None,
        pad_token_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def end_of_text_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the token that ends every document: <|endoftext|> where there is one, else the EOS.

    Raises:
        Refused: there is neither.
    """
    found = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    if found is None:
        raise Refused(f"this tokenizer has neither {END_OF_TEXT} nor an EOS token, so no document would end. Add one.")
    return int(found)


def _own_copy(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return the tokenizer's fast part, without the truncation and padding that its last call may have left in it."""
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise Refused(f"{type(tokenizer).__name__} is a slow tokenizer: name one with a tokenizer.json.")
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _write(
    directory: Path,
    texts: Ragged,
    indices: NDArray[np.int64],
    backend: "Tokenizer",
    end: int,
    dtype: np.dtype,
    token_bytes: bool,
    what: str,
) -> None:
    encode = backend.encode_batch if token_bytes else backend.encode_batch_fast  # the fast one tells no offsets
    last = np.array([end])
    with (
        Writer(directory / "tokens", dtype) as tokens,
        (directory / "token_bytes.bin").open("wb") as lengths,
        metered(what, int(texts.lengths[indices].sum())) as read,
    ):
        for pieces, encodings in _encoded(texts, indices, encode):
            document: list[NDArray] = []
            for (text, ends), encoding in zip(pieces, encodings, strict=True):
                document.append(np.array(encoding.ids, np.int64))
                if token_bytes:
                    lengths.write(bytes_of_tokens(text, encoding).tobytes())
                if ends:
                    tokens.append(np.concatenate([*document, last]))
                    document = []
                    if token_bytes:
                        lengths.write(np.zeros(1, np.uint32).tobytes())
                read(len(text))
    if not token_bytes:
        (directory / "token_bytes.bin").unlink()


Piece = tuple[str, bool]
"""Text, and whether a document ends with it."""


def _encoded(texts: Ragged, indices: NDArray[np.int64], encode: Any) -> Iterator[tuple[list[Piece], "list[Encoding]"]]:
    """Yield batches of whole documents with their encodings; while one is used, the next is computed."""

    def encoded(batch: list[Piece]) -> "tuple[list[Piece], list[Encoding]]":
        return batch, encode([text for text, _ in batch], add_special_tokens=False)

    with _parallel(), ThreadPoolExecutor(1) as ahead:
        waiting = None
        for batch in _batches(texts, indices):
            following = ahead.submit(encoded, batch)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _batches(texts: Ragged, indices: NDArray[np.int64]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for index in indices.tolist():
        parts = cut(texts.text(index))
        batch += [(part, number == len(parts)) for number, part in enumerate(parts, 1)]
        size += sum(map(len, parts))
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def cut(text: str) -> list[str]:
    """Return a text in pieces of at most PIECE_CHARS that end with a line, or a word, where one ends in them."""
    parts = []
    start = 0
    while len(text) - start > PIECE_CHARS:
        until = start + PIECE_CHARS
        place = max(text.rfind("\n", start + 1, until), -1)
        place = place if place > 0 else text.rfind(" ", start + 1, until)
        end = place if place > 0 else until
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


@contextmanager
def _parallel() -> Iterator[None]:
    """Let the tokenizers library use all cores: elsewhere its threads are off, because they do not survive a fork."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def bytes_of_tokens(text: str, encoding: "Encoding") -> NDArray[np.uint32]:
    """Return how many UTF-8 bytes of `text` each token stands for: from its start to the next one's.

    Of several tokens that make one character the last has its bytes. From any token on, the sum is what
    `evaluation.encode.document` counts from there on.
    """
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    if not len(offsets):
        return np.empty(0, np.uint32)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    before = np.concatenate([[0], np.cumsum(sizes)])  # bytes before each character
    starts = before[np.append(offsets[:, 0], offsets[-1, 1])]
    return np.maximum(np.diff(starts), 0).astype(np.uint32)


def _write_sample(directory: Path, what: str, tokens: Ragged, tokenizer: "PreTrainedTokenizerBase") -> None:
    lines = [f"The first documents of {what}, with | after each token:"]
    for index in range(min(SAMPLE_DOCUMENTS, len(tokens))):
        ids = tokens[index].tolist()
        shown = "".join(f"{tokenizer.decode([token])}|" for token in ids[:SAMPLE_TOKENS])
        more = f" … {len(ids) - SAMPLE_TOKENS:,} more" if len(ids) > SAMPLE_TOKENS else ""
        lines += ["", f"--- document {index + 1}, {len(ids):,} tokens", shown + more]
    (directory / "sample.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
