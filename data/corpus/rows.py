"""Rows of one length out of a shard: whole documents packed best-fit, gathered as a batch when they are asked for."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from data.corpus.cache import made_once
from data.corpus.packing import best_fit, pieces
from data.corpus.shards import Shard


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

    def batch(self, rows: NDArray[np.int64] | list[int]) -> Batch:
        """Return the rows at these indices."""
        places, source, number = self._places(np.asarray(rows, np.int64))
        input_ids = np.full((len(rows), self.row_length), self.shard.pad_token_id, np.int64)
        document = np.zeros((len(rows), self.row_length), np.int64)
        input_ids.reshape(-1)[places] = self.shard.tokens.values[source]
        document.reshape(-1)[places] = number
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

    def _places(self, rows: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """Return of each token in `rows` its place in the flattened batch, its place in the shard, its document."""
        first = np.where(rows > 0, self._ends[rows - 1], 0)
        counts = self._ends[rows] - first
        row = np.repeat(np.arange(len(rows)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        piece = first[row] + number
        length = self._length[piece]
        behind = np.cumsum(length)
        within = np.arange(length.sum()) - np.repeat(behind - length, length)
        tokens_before_row = np.concatenate([[0], np.cumsum(np.bincount(row, length, len(rows)))[:-1]]).astype(np.int64)
        column = behind - length - tokens_before_row[row]
        places = np.repeat(row * self.row_length + column, length) + within
        return places, np.repeat(self._start[piece], length) + within, np.repeat(number + 1, length)
