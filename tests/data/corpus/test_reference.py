"""The definition of packing and order, by hand: what the fast ones are compared with is itself right."""

from random import Random

import torch

from tests.data.corpus.reference import batch_rows, best_fit, pack


def test_best_fit_by_hand() -> None:
    # 6 opens a row with 4 free, 5 one with 5 free; 4 fits the first exactly, 3 the second, 2 the second's rest.
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_every_document_is_in_exactly_one_row_that_holds_it() -> None:
    random = Random(0)
    lengths = [random.randint(1, 50) for _ in range(500)]
    rows = best_fit(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(500))
    assert all(sum(lengths[index] for index in row) <= 50 for row in rows)
    assert len(rows) <= 1.02 * sum(lengths) / 50 + 1


def test_a_long_document_is_packed_in_consecutive_pieces() -> None:
    rows = pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [12, 13]], 4, pad_token_id=0)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 0], [12, 13, 0, 0]]
    assert rows.document.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]


def test_a_single_last_token_makes_no_row_without_a_label() -> None:
    rows = pack([[1, 2, 3, 4, 5]], 4, pad_token_id=0)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4]]


def test_batches_walk_through_each_epoch_once_and_repeat_for_the_same_seed() -> None:
    seen = torch.cat([batch_rows(10, 4, step, seed=3) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert torch.equal(batch_rows(10, 4, 2, seed=3), seen[8:12])
