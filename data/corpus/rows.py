"""Rows of one length out of a shard: whole documents packed best-fit, gathered as a batch when they are asked for."""

from collections.abc import Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from data.corpus.cache import made_once
from data.corpus.shards import Shard

Array = NDArray[np.int64]


class Batch(NamedTuple):
    """Packed rows; `B` rows of `T` tokens."""

    input_ids: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]
    """Which document of its row a token belongs to, from 1; 0 is padding."""


class PackedRows:
    """The rows of a shard; the packing is kept beside it, and nothing is read before a batch is."""

    def __init__(self, shard: Shard, row_length: int) -> None:
        def pack(partial: Path) -> dict[str, Any]:
            start, length = pieces(shard.tokens.lengths, row_length)
            order, ends = best_fit(length, row_length)
            for name, values in (("start", start[order]), ("length", length[order]), ("ends", ends)):
                np.save(partial / f"{name}.npy", values)
            return {"rows": len(ends), "tokens": int(length.sum())}

        directory = shard.directory.with_name(f"{shard.directory.name}.rows-{row_length}")
        meta = made_once(directory, f"rows of {row_length} tokens", pack)
        self.shard, self.row_length = shard, row_length
        self.tokens: int = meta["tokens"]
        """Tokens in all rows, padding not counted."""
        self._start, self._length, self._ends = (
            np.load(directory / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ("start", "length", "ends")
        )

    def __len__(self) -> int:
        return len(self._ends)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the rows at these indices."""
        input_ids = np.full((len(rows), self.row_length), self.shard.pad_token_id, np.int64)
        document = np.zeros_like(input_ids)
        for place, row in enumerate(rows):
            pieces = slice(self._ends[row - 1] if row else 0, self._ends[row])
            column = 0
            for number, (start, length) in enumerate(
                zip(self._start[pieces].tolist(), self._length[pieces].tolist(), strict=True), 1
            ):
                input_ids[place, column : column + length] = self.shard.tokens.values[start : start + length]
                document[place, column : column + length] = number
                column += length
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(document))

    def padding(self) -> Batch:
        """Return one row of padding, for a process that has no row left where others have."""
        ids = torch.full((1, self.row_length), self.shard.pad_token_id)
        return Batch(ids, torch.zeros_like(ids))

    def predicted(self) -> tuple[int, int]:
        """Return how many tokens the rows predict, and the UTF-8 bytes of text that these stand for.

        All tokens of a document but its first, or of each piece of one that is longer than a row, are predicted; its
        end-of-text too, which stands for no text. Bits per byte are the sum of the nats of these tokens / ln 2 / bytes.
        """
        assert self.shard.token_bytes is not None, "the shard was made without the bytes of its tokens"
        before = np.concatenate([[0], np.cumsum(self.shard.token_bytes, dtype=np.int64)])
        n_bytes = (before[self._start + self._length] - before[self._start + 1]).sum()
        return self.tokens - len(self._length), int(n_bytes)


def best_fit(lengths: Array, row_length: int) -> tuple[Array, Array]:
    """Assign each document to the fullest row that still has room, longest document first.

    Best-fit decreasing (Ding et al. 2024, arXiv:2404.10830); of rows with the same room, and of documents of the same
    length, the first. `lengths` are within 1 to `row_length`. Returns the documents' indices, row by row in the order
    in which they were placed, and where each row ends in them.
    """
    assert not len(lengths) or (lengths.min() >= 1 and lengths.max() <= row_length), "lengths are 1 to row_length"
    by_length = np.argsort(-lengths, kind="stable")
    room: list[list[int]] = [[] for _ in range(row_length)]  # heaps of rows, by the tokens free in them
    has_rows = 0  # bit n is set where room[n] has rows: the least room that suffices is one look away
    rows, row_of = 0, np.empty(len(lengths), np.int64)  # of the documents by length
    for place, length in enumerate(lengths[by_length].tolist()):
        if suffices := has_rows >> length:
            free = length + (suffices & -suffices).bit_length() - 1
            row = heappop(room[free])
            has_rows ^= 0 if room[free] else 1 << free
        else:
            free, row, rows = row_length, rows, rows + 1
        if left := free - length:
            heappush(room[left], row)
            has_rows |= 1 << left
        row_of[place] = row
    order = np.argsort(row_of, kind="stable")
    return by_length[order], np.cumsum(np.bincount(row_of, minlength=rows))


def pieces(lengths: Array, row_length: int) -> tuple[Array, Array]:
    """Cut documents into consecutive pieces of at most `row_length` tokens; return each piece's start and length.

    Starts count from the first token of the first document. A single token predicts nothing and makes no piece, so a
    document's last token may be left out.
    """
    counts = -(-lengths // row_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    within = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * row_length
    size = np.minimum(lengths[document] - within, row_length)
    start = np.repeat(np.cumsum(lengths) - lengths, counts) + within
    return start[size > 1], size[size > 1]
