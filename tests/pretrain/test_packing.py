"""Packing: whole documents, no attention across their boundaries, the loss of the unpacked text."""

from random import Random
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from pretrain.loop import batch_rows, mean_loss
from pretrain.packing import IGNORED, attention_mask, best_fit, labels_of, pack, positions_of


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


def test_labels_positions_and_mask_by_hand() -> None:
    rows = pack([[5, 6, 7], [8, 9]], 6, pad_token_id=0)
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert rows.document.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert labels_of(rows).tolist() == [[6, 7, IGNORED, 9, IGNORED, IGNORED]]
    assert positions_of(rows.document).tolist() == [[0, 1, 2, 0, 1, 0]]
    assert attention_mask(rows.document)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_a_shape_other_than_the_annotated_one_is_an_error_in_tests() -> None:
    with pytest.raises(TypeCheckError, match="document"):
        attention_mask(torch.zeros(6, dtype=torch.long))


def test_packed_loss_is_the_loss_of_the_documents_one_by_one() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    documents = [torch.randint(1, 50, (length,)).tolist() for length in (9, 4, 7, 12, 3)]
    rows = pack(documents, 16, pad_token_id=0)
    packed = mean_loss(model, rows, labels_of(rows), "cpu")
    total, count = 0.0, 0
    for document in documents:
        ids = torch.tensor([document])
        total += model(input_ids=ids, labels=ids).loss.item() * (len(document) - 1)
        count += len(document) - 1
    torch.testing.assert_close(packed.item(), total / count, rtol=1e-5, atol=1e-5)


def test_batches_walk_through_each_epoch_once_and_repeat_for_the_same_seed() -> None:
    seen = torch.cat([batch_rows(10, 4, step, seed=3) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert torch.equal(batch_rows(10, 4, 2, seed=3), seen[8:12])


def test_an_epochs_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = torch.randperm

    def counted(size: int, **options: Any) -> torch.Tensor:
        drawn.append(size)
        return draw(size, **options)

    monkeypatch.setattr(torch, "randperm", counted)
    for step in range(25):  # 100 rows in epochs of 40: the third is begun
        batch_rows(40, 4, step, seed=987)
    assert drawn == [40] * 3
