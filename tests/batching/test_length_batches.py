"""Batches within a budget, and smaller ones where memory runs out."""

import weakref
from typing import Any

import pytest
import torch

from batching.length_batches import batches, in_batches


def test_batches_hold_every_index_once_within_the_budget() -> None:
    lengths = [5, 90, 7, 30, 31, 200, 1, 1]
    found = list(batches(lengths, 100, max_rows=3))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 100 for batch in found)
    assert max(map(len, found)) == 3


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user is told."""
    texts: list[str] = []
    monkeypatch.setattr("batching.length_batches.warn", texts.append)
    return texts


def test_results_come_in_the_order_of_the_lengths(said: list[str]) -> None:
    lengths = [3, 50, 7, 50, 1]
    assert in_batches(lengths, 60, lambda batch: [lengths[i] for i in batch]) == lengths
    assert in_batches([], 60, lambda batch: batch) == []
    assert said == []


def test_where_memory_runs_out_this_batch_and_the_next_are_halved_and_it_is_said_once(said: list[str]) -> None:
    seen: list[int] = []

    def compute(batch: list[int]) -> list[int]:
        seen.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return batch

    assert in_batches([1] * 10, 4, compute) == list(range(10))
    assert seen == [4, 2, *[1] * 10]
    assert said == ["evaluation: out of memory with 4 sequences at once, going on with half as many"]


def test_memory_is_freed_once_nothing_of_the_failed_attempt_is_alive(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    freed: list[bool] = []
    monkeypatch.setattr(
        "batching.length_batches.free_memory", lambda: freed.append(all(tensor() is None for tensor in made))
    )

    def compute(batch: list[int]) -> list[int]:
        held = torch.zeros(8)
        made.append(weakref.ref(held))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    assert in_batches([1] * 4, 4, compute) == [0, 1, 2, 3]
    assert freed == [True, True]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("lengths", "error"),
    [([5], torch.OutOfMemoryError("CUDA out of memory")), ([5, 5], RuntimeError("shapes do not match"))],
)
def test_what_a_smaller_batch_does_not_help_is_raised(lengths: list[int], error: RuntimeError, said: list[str]) -> None:
    def compute(batch: list[int]) -> list[int]:
        raise error

    with pytest.raises(RuntimeError, match=str(error)):
        in_batches(lengths, 60, compute)
    assert said == []
