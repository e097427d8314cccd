"""Packed rows: no attention across documents' boundaries, the loss of the unpacked text."""

import pytest
import torch
from jaxtyping import TypeCheckError

from pretrain.loop import summed_loss
from pretrain.packing import IGNORED, attention_mask, labels_of, positions_of
from tests.data.corpus.reference import pack


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
    packed = summed_loss(model, rows, labels_of(rows), torch.device("cpu"))
    total = 0.0
    for document in documents:
        ids = torch.tensor([document])
        total += model(input_ids=ids, labels=ids).loss.item() * (len(document) - 1)
    torch.testing.assert_close(packed.item(), total, rtol=1e-5, atol=1e-5)
