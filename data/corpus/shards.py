"""Token shards: the documents of one split of one source as token ids, memory-mapped, each ended by end-of-text."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.chat import TURN_END
from data.corpus.cache import key_of, made_once, metered, root
from data.corpus.ragged import Ragged, Writer, mapped
from data.corpus.store import Store
from utils.console import warn
from utils.errors import Refused

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

VERSION = "3"
END_OF_TEXT = "<|endoftext|>"
BATCH_CHARS = 1 << 21
"""Text in the tokenizer's hands at once; an encoding takes about a hundred bytes a token."""
PIECE_CHARS = 1 << 17
"""Longer documents are tokenised in pieces of that length, so that one book does not occupy one core alone."""
SAMPLE_DOCUMENTS, SAMPLE_TOKENS = 5, 200


class Shard(NamedTuple):
    """Token ids of documents, in the order of the documents."""

    directory: Path
    tokens: Ragged
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
    indices = np.arange(len(texts)) if indices is None else indices
    chosen = sha256(indices.tobytes()).hexdigest()
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    key = key_of(VERSION, store.key, split, chosen, backend.to_str(), end, token_bytes)
    directory = root() / "tokens" / key

    mark = str(tokenizer.convert_ids_to_tokens(end))
    mark = "" if mark == TURN_END else mark  # with which conversations are rendered, turn by turn

    def write(partial: Path) -> dict[str, Any]:
        documents = (texts.text(index) for index in indices.tolist())
        read_bytes = int(texts.lengths[indices].sum())
        with (
            metered(f"tokenise {store.name}, {split}", read_bytes) as read,
            Writer(partial / "tokens", dtype) as tokens,
        ):
            n_bytes, n_marked, n_tagged = [np.empty(0, np.uint32)], 0, 0
            for ids, found, marked in _encoded(documents, backend, (mark, end), read, token_bytes):
                tokens.append(ids)
                n_bytes += found
                n_marked += marked
                is_tag = is_special[ids[:-1]]
                n_tagged += bool(is_tag.any() and not is_tag[0])  # a conversation begins with one
        if token_bytes:
            np.concatenate(n_bytes).tofile(partial / "token_bytes.bin")
        _write_sample(partial, f"{store.name}, {split}", Ragged(partial / "tokens", dtype), tokenizer)
        return {
            "name": store.name, "split": split, "documents": len(indices), "dtype": dtype.name, "marked": n_marked,
            "tagged": n_tagged,
        }  # fmt: skip

    is_special = np.zeros(len(tokenizer), bool)
    is_special[[id for id, token in tokenizer.added_tokens_decoder.items() if token.special]] = True
    made = made_once(directory, f"the tokens of {store.name}, {split}", write)
    if made["tagged"]:
        warn(
            f"{store.name}: {made['tagged']} of {len(indices)} documents of {split} hold control tokens of the "
            "tokenizer inside their text, and are trained on so. If they are prose "
            "about them, write them otherwise"
        )
    if marked := made["marked"]:
        warn(
            f"{store.name}: {marked} of {len(indices)} documents of {split} hold {mark} inside, which is read as text. "
            f"Where it ends documents, set document_separator={mark!r}"
        )
    return Shard(
        directory=directory,
        tokens=Ragged(directory / "tokens", dtype),
        token_bytes=mapped(directory / "token_bytes.bin", np.uint32) if token_bytes else None,
        pad_token_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def end_of_text_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the token that ends every document: <|endoftext|> where there is one, else the EOS.

    Raises:
        Refused: there is neither.
    """
    end = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    if end is None:
        raise Refused(f"this tokenizer has neither {END_OF_TEXT} nor an EOS token, so no document would end. Add one.")
    return int(end)


def _own_copy(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return the tokenizer's fast part, without the truncation and padding that its last call may have left in it."""
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise Refused(f"{type(tokenizer).__name__} is a slow tokenizer: name one with a tokenizer.json.")
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _encoded(
    documents: Iterator[str], backend: "Tokenizer", end: tuple[str, int], read: Callable[[int], None], token_bytes: bool
) -> Iterator[tuple[NDArray, list[NDArray[np.uint32]], bool]]:
    """Yield the ids of each document with its end, the bytes of its tokens, if asked for, and whether it names the end.

    `end` is the end's text and id; where the text stands in a document, it is encoded as any other, unless it is "".
    """
    mark, end_id = end
    encode = backend.encode_batch if token_bytes else backend.encode_batch_fast  # the fast one tells no offsets
    backend.encode_special_tokens = True
    literal = backend.encode(mark, add_special_tokens=False)
    backend.encode_special_tokens = False
    for batch in _batches(documents, mark):
        with _parallel():
            encodings = iter(encode([piece for pieces in batch for piece in pieces], add_special_tokens=False))
        for pieces in batch:
            whole = [
                (piece, literal if piece == mark else encoding)
                for piece, encoding in zip(pieces, encodings, strict=False)
            ]
            n_bytes = [bytes_of_tokens(*piece) for piece in whole] + [np.zeros(1, np.uint32)] if token_bytes else []
            ids = [*(id for _, encoding in whole for id in encoding.ids), end_id]
            yield np.array(ids), n_bytes, bool(mark) and mark in pieces
            read(sum(map(len, pieces)))


def _batches(documents: Iterator[str], mark: str) -> Iterator[list[list[str]]]:
    """Yield documents in their pieces, each `mark` a piece of its own, so many at once as have BATCH_CHARS together."""
    batch: list[list[str]] = []
    size = 0
    for text in documents:
        parts = text.split(mark) if mark else [text]
        batch.append([piece for part in parts[:-1] for piece in (*cut(part), mark)] + cut(parts[-1]))
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    yield batch


def cut(text: str) -> list[str]:
    """Return a text in pieces of at most PIECE_CHARS that end with a line, or a word, where one ends in them."""
    parts = []
    start = 0
    while len(text) - start > PIECE_CHARS:
        until = start + PIECE_CHARS
        ends = (text.rfind(mark, start + 1, until) for mark in "\n ")
        end = next((place for place in ends if place > 0), until)
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
        os.environ.pop(name)
        os.environ |= {} if before is None else {name: before}


def bytes_of_tokens(text: str, encoding: "Encoding") -> NDArray[np.uint32]:
    """Return how many UTF-8 bytes of `text` each token stands for: from its start to the next one's.

    Of several tokens that make one character the last has its bytes. From any token on, the sum is what
    `data.examples.document` counts from there on.
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
