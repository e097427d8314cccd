"""Best-fit packing of millions of documents: the rows that the definition gives, found length by length."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]


def best_fit(lengths: Array, row_length: int) -> tuple[Array, Array]:
    """Assign each document to the fullest row that still has room, longest document first.

    Best-fit decreasing (Ding et al. 2024, arXiv:2404.10830); of rows with the same room, and of documents of the same
    length, the first. Documents of one length are placed together: the fullest row with room takes as many as fit,
    since it stays the fullest, then the next one does.

    `lengths` are within 1 to `row_length`. Returns the documents' indices, row by row in the order in which they were
    placed, and where each row ends in them.
    """
    assert not len(lengths) or (lengths.min() >= 1 and lengths.max() <= row_length), "lengths are 1 to row_length"
    by_length = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int64)  # of the documents by length
    room: list[list[Array]] = [[] for _ in range(row_length + 1)]  # rows by the tokens free in them
    rows = placed = 0
    for length, count in reversed(
        list(zip(*(found.tolist() for found in np.unique(lengths, return_counts=True)), strict=True))
    ):
        until = placed + count
        for free in range(length, row_length + 1):
            if placed == until:
                break
            fit = free // length
            if free < row_length:
                open_rows = _joined(room[free])
            else:  # no open row has room: new ones
                open_rows = rows + np.arange(-(-(until - placed) // fit))
                rows += len(open_rows)
            if not len(open_rows):
                continue
            taken = open_rows[: -(-(until - placed) // fit)]
            room[free] = [open_rows[len(taken) :]] if len(taken) < len(open_rows) else []
            put = min(until - placed, fit * len(taken))
            row_of[placed : placed + put] = np.repeat(taken, fit)[:put]
            last = put - fit * (len(taken) - 1)  # documents in the last of the rows, the only one that may have room
            if len(taken) > 1:
                room[free - fit * length].append(taken[:-1])
            room[free - last * length].append(taken[-1:])
            placed += put
    order = np.argsort(row_of, kind="stable")
    return by_length[order], np.cumsum(np.bincount(row_of, minlength=rows))


def _joined(rows: list[Array]) -> Array:
    """Return all rows of a list of ascending arrays, ascending."""
    if len(rows) == 1:
        return rows[0]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)


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
