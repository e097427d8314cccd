"""Which rows an optimizer step trains on, a function of seed and step alone, and the fixed rows of a validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from data.corpus.corpus import Corpus
from data.corpus.rows import Batch, PackedRows
from data.corpus.shards import tokenised
from utils.errors import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ONE = 1 << 32  # of the fixed-point numbers that shares are


class Order:
    """The rows of every step, over one or several parts; any step is found without the ones before.

    Each part goes through a permutation of its own rows in each of its epochs. Parts take turns as evenly as their
    shares allow: after any number of rows each has had its share of them, to within one row a part.
    """

    def __init__(self, row_counts: Sequence[int], shares: Sequence[float], seed: int) -> None:
        assert len(row_counts) == len(shares) > 0, (row_counts, shares)
        assert all(row_counts), row_counts
        self._row_counts = row_counts
        self._permutations = [  # two stay in memory, since a step can meet two epochs
            lru_cache(2)(partial(_permutation, count, seed + 7919 * part)) for part, count in enumerate(row_counts)
        ]
        left = [sum(shares[part:]) for part in range(len(shares))]
        # Part p takes this share of the rows that the parts before it leave.
        self._shares = [min(ONE - 1, round(share / rest * ONE)) for share, rest in zip(shares, left, strict=True)][:-1]
        offsets = Random(f"{seed} mixture")
        self._offsets = [offsets.getrandbits(32) for _ in self._shares]

    def rows(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
        """Return part and row of each row in step `step`, from 0: those that process `rank` takes of the whole batch.

        The processes' rows are the batch's, every `world_size`-th, whatever their number.
        """
        places = range(step * batch_size + rank, (step + 1) * batch_size, world_size)
        return [(part, self._row(part, place)) for part, place in map(self._turn, places)]

    def _row(self, part: int, place: int) -> int:
        epoch, index = divmod(place, self._row_counts[part])
        return int(self._permutations[part](epoch)[index])

    def _turn(self, place: int) -> tuple[int, int]:
        """Return which part has the turn `place`, from 0, and how many turns it has had before."""
        for part, (share, offset) in enumerate(zip(self._shares, self._offsets, strict=True)):
            before = (place * share + offset) // ONE
            if (place * share + share + offset) // ONE > before:
                return part, before
            place -= before
        return len(self._shares), place


def _permutation(row_count: int, seed: int, epoch: int) -> NDArray[np.int32]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(row_count, generator=generator).to(torch.int32).numpy()


class Training:
    """Batches of the training documents of a corpus."""

    def __init__(self, parts: Sequence[PackedRows], weights: Sequence[float], seed: int) -> None:
        self.parts = parts
        # Weights are of tokens, and a row of short documents may hold fewer.
        rows = [weight * len(part) / part.tokens for weight, part in zip(weights, parts, strict=True)]
        self.order = Order([len(part) for part in parts], [share / sum(rows) for share in rows], seed)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return the rows of step `step` (from 0) that process `rank` takes; `batch_size` is that of all processes."""
        chosen = self.order.rows(step, batch_size, rank, world_size)
        shape = (len(chosen), self.parts[0].row_length)
        whole = Batch(torch.empty(shape, dtype=torch.long), torch.empty(shape, dtype=torch.long))
        for number, part in enumerate(self.parts):
            places = [place for place, (owner, _) in enumerate(chosen) if owner == number]
            for into, values in zip(whole, part.batch([chosen[place][1] for place in places]), strict=True):
                into[places] = values
        return whole


def training(corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", row_length: int, seed: int) -> Training:
    """Return the batches of a corpus's training documents in rows of `row_length` tokens; tokenises them once.

    Raises:
        Refused: a part has no document of two tokens, or the disk is full.
    """
    parts = [PackedRows(tokenised(part.store, "train", tokenizer, part.train), row_length) for part in corpus.parts]
    for part, rows in zip(corpus.parts, parts, strict=True):
        if not len(rows):
            raise Refused(f"{part.store.name} has no document of two tokens to train on.")
    return Training(parts, [part.weight for part in corpus.parts], seed)


@dataclass(frozen=True)
class HeldOut:
    """The rows of one part that are validated or tested on; the same in every run with this tokenizer."""

    name: str
    rows: PackedRows
    predicted_tokens: int
    text_bytes: int
    """UTF-8 bytes that the predicted tokens stand for: bits per byte = nats of all of them / ln 2 / text_bytes."""


def held_out(
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    row_length: int,
    split: str = "validation",
    max_documents: int = 256,
) -> list[HeldOut]:
    """Return the held-out rows of each part that has any; about `max_documents`, shared between parts by weight.

    Raises:
        Refused: no validation document has a second token.
    """
    assert split in ("validation", "test"), split
    found = []
    for part in corpus.parts:
        chosen = part.held_out(split, max_documents)
        if not len(chosen):
            continue
        rows = PackedRows(tokenised(part.store, split, tokenizer, chosen, token_bytes=True), row_length)
        predicted_tokens, text_bytes = rows.predicted()
        if text_bytes:  # documents of one token predict no text
            found.append(HeldOut(part.store.name, rows, predicted_tokens, text_bytes))
    if not found and split == "validation":
        raise Refused(f"{corpus.name}: its held-out documents have no second token to measure on: give more text.")
    return found
