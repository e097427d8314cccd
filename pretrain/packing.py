"""What packed rows mean to a model: what each token predicts, its position, and what it may attend to."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data.corpus.rows import Batch

IGNORED = -100
"""Label of a position that predicts nothing, as in torch's cross_entropy."""


def labels_of(rows: Batch) -> Int[Tensor, "N T"]:
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
