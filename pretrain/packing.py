"""Pack whole documents into rows of one length, best-fit, with boundaries that attention does not cross."""

from bisect import bisect_left, insort
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IGNORED = -100
"""Label of a position that predicts nothing, as in torch's cross_entropy."""


class Rows(NamedTuple):
    """Packed rows; `N` rows of `T` tokens."""

    input_ids: Int[Tensor, "N T"]
    document: Int[Tensor, "N T"]
    """Which document of its row a token belongs to, from 1; 0 is padding."""


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


def pack(documents: list[list[int]], row_length: int, pad_token_id: int) -> Rows:
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
    return Rows(input_ids, document)


def labels_of(rows: Rows) -> Int[Tensor, "N T"]:
    """Return each position's next token, or IGNORED where that is padding or another document's first."""
    labels = torch.full_like(rows.input_ids, IGNORED)
    same = (rows.document[:, 1:] == rows.document[:, :-1]) & (rows.document[:, 1:] > 0)
    labels[:, :-1] = torch.where(same, rows.input_ids[:, 1:], IGNORED)
    return labels


def positions_of(document: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
    """Return each token's position within its document."""
    index = torch.arange(document.shape[1], device=document.device).expand_as(document)
    starts = torch.ones_like(document, dtype=torch.bool)
    starts[:, 1:] = document[:, 1:] != document[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def attention_mask(document: Int[Tensor, "N T"]) -> Bool[Tensor, "N 1 T T"]:
    """Return which earlier tokens each token may attend to: those of its own document."""
    same = document[:, None, :, None] == document[:, None, None, :]
    return same.tril()
