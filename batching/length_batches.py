"""Sequences in batches of similar length; where memory runs out, in smaller ones."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from utils.console import warn
from utils.runtime import free_memory
from watching.out_of_memory import is_out_of_memory

Result = TypeVar("Result")


def in_batches(
    lengths: Sequence[int],
    tokens_per_batch: int,
    compute: Callable[[list[int]], Sequence[Result]],
    max_rows: int = 128,
) -> list[Result]:
    """Return one result for each length, in order. `compute` gets the indices of a batch, and returns theirs.

    Where memory runs out, that batch and those that follow, which need about as much, are halved: down to one row.
    """
    results: dict[int, Result] = {}
    waiting = list(batches(lengths, tokens_per_batch, max_rows))
    told = False
    while waiting:
        batch = waiting[0]
        try:
            results.update(zip(batch, compute(batch), strict=True))
        except RuntimeError as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        else:
            del waiting[0]
            continue
        free_memory()  # not before: as long as the error lives, its traceback holds the tensors of the attempt
        if not told:
            warn(f"evaluation: out of memory with {len(batch)} sequences at once, going on with half as many")
        told = True
        waiting = [half for rows in waiting for half in _halves(rows)]
    return [results[index] for index in range(len(lengths))]


def batches(lengths: Sequence[int], tokens_per_batch: int, max_rows: int = 128) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, the longest first, each within the budget once padded.

    A row that is longer than the budget is a batch by itself.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == max_rows or (len(batch) + 1) * lengths[batch[0]] > tokens_per_batch):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _halves(rows: list[int]) -> list[list[int]]:
    middle = -(-len(rows) // 2)
    return [half for half in (rows[:middle], rows[middle:]) if half]
