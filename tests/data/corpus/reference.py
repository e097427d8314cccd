"""Packing and order as they are defined, a document and a row at a time: what the fast ones are compared with."""

from bisect import bisect_left, insort
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from data.corpus.rows import Batch


def best_fit(lengths: list[int], row_length: int) -> list[list[int]]:
    """Assign each document to the fullest row that still has room; return the documents' indices by row.

    Longest first, which leaves the least room unused (best-fit decreasing; Ding et al. 2024, "Fewer Truncations Improve
    Language Modeling", arXiv:2404.10830). Every length must be within 1 to `row_length`.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        assert 1 <= length <= row_length, (index, length, row_length)
        place = bisect_left(room, (length, -1))
        free, row = room.pop(place) if place < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        if free > length:
            insort(room, (free - length, row))
    return rows


def pack(documents: list[list[int]], row_length: int, pad_token_id: int) -> Batch:
    """Return the rows that hold every document whole; one longer than `row_length` in consecutive pieces of it.

    A piece counts as a document. A single token predicts nothing: it is left out, and so may be a document's last.
    """
    pieces = (document[i : i + row_length] for document in documents for i in range(0, len(document), row_length))
    documents = [piece for piece in pieces if len(piece) > 1]
    rows = best_fit([len(document) for document in documents], row_length)
    input_ids = torch.full((len(rows), row_length), pad_token_id)
    document = torch.zeros((len(rows), row_length), dtype=torch.long)
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members, start=1):
            end = start + len(documents[index])
            input_ids[row, start:end] = torch.tensor(documents[index])
            document[row, start:end] = number
            start = end
    return Batch(input_ids, document)


def batch_rows(row_count: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " B"]:
    """Return the rows of optimizer step `step`: a function of seed and step; each epoch is its own permutation."""
    wanted = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([_order(row_count, position // row_count, seed)[position % row_count] for position in wanted])


@lru_cache(maxsize=2)  # the epochs that one step can meet, unless it is longer than an epoch
def _order(row_count: int, epoch: int, seed: int) -> Int[Tensor, " N"]:
    return torch.randperm(row_count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
