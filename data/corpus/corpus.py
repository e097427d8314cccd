"""What a run trains and is validated on: one source or a weighted mixture of them, prepared on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.corpus.documents import Options, source_of
from data.corpus.mixture import parse
from data.corpus.store import Store, stored
from utils.errors import Refused


@dataclass(frozen=True)
class Part:
    """One source of the mixture."""

    store: Store
    weight: float
    """Share of the training tokens."""
    train: NDArray[np.int64]
    """Indices of the training documents that are used, ascending."""
    held_out_elsewhere: int
    """Training documents that are left out because another part holds them out."""

    def held_out(self, split: str, max_documents: int) -> NDArray[np.int64]:
        """Return the indices of its share of `max_documents` documents of validation or test, ascending.

        What is beyond is left out by its hash, so that which ones remain does not depend on the files' order.
        """
        limit = max(1, round(max_documents * self.weight))
        return np.sort(np.argsort(self.store.keys(split), kind="stable")[:limit])

    @property
    def info(self) -> dict[str, Any]:
        """What the run's record tells of it."""
        return {
            "name": self.store.name,
            "weight": self.weight,
            "fingerprint": self.store.key,
            "train_rows": len(self.train),
            **{name: self.store.meta[name] for name in ("splits", "left_out", "overlap")},
            "held_out_elsewhere": self.held_out_elsewhere,
        }

    def line(self) -> str:
        """Return what was read, left out and held out, to be shown to the user."""
        splits, left, overlap = (self.store.meta[name] for name in ("splits", "left_out", "overlap"))
        read = " + ".join(f"{splits[split]['documents']:,} {split}" for split in ("train", "validation", "test"))
        used = f", {len(self.train):,} of them used" if len(self.train) < splits["train"]["documents"] else ""
        return (
            f"{self.store.name}: {read} documents{used}; left out {left['empty']:,} empty, {left['duplicates']:,} "
            f"repeated, {left['held_out'] + self.held_out_elsewhere:,} held out elsewhere; "
            f"{sum(overlap.values()):,} in two splits"
        )


@dataclass(frozen=True)
class Corpus:
    """All parts; the weights sum to 1."""

    name: str
    parts: tuple[Part, ...]

    @property
    def info(self) -> dict[str, Any]:
        """What the run's record tells of its data; `parts` has one entry for each source."""
        return {"name": self.name, "parts": [part.info for part in self.parts]}

    def lines(self) -> list[str]:
        """Return for each part what was read, left out and held out, to be shown to the user."""
        return [part.line() for part in self.parts]

    def training_texts(self, limit: int) -> Iterator[str]:
        """Yield about `limit` training documents, from each part by its weight, to train a tokenizer on.

        They are taken evenly from all of a part, whose files may be in different languages; made documents come in no
        order, and the first are as good as any.
        """
        for part in self.parts:
            texts, wanted = part.store.texts("train"), round(limit * part.weight)
            made = part.store.name.startswith("made:")
            step = 1 if made or not wanted else max(1, len(part.train) // wanted)
            yield from (texts.text(index) for index in part.train[::step][:wanted])

    def count(self, split: str) -> int:
        """Return the number of documents of train, validation or test that are used."""
        if split == "train":
            return sum(len(part.train) for part in self.parts)
        return sum(len(part.store.texts(split)) for part in self.parts)


def prepare(source: str, options: Options | None = None, *, data_fraction: float = 1.0) -> Corpus:
    """Read, normalise, split and store the documents of `source`, or find them stored by an earlier run.

    `data_fraction` is the share of the training documents to use, in (0, 1], chosen by a hash of the document: a larger
    share has all documents of a smaller one. A document that one part holds out is trained on in none.

    Raises:
        Refused: the source is malformed, missing, unreadable, or leaves nothing to train or to validate on.
    """
    if not 0 < data_fraction <= 1:  # NaN too
        raise Refused(f"data_fraction={data_fraction}: it is a share of the training documents, above 0 and at most 1.")
    named, options = parse(source), options or Options()
    sources = [(source_of(name, options), weight) for name, weight in named]  # all are looked for before any is read
    stores = [(stored(each, alone=len(named) == 1), weight) for each, weight in sources]
    corpus = Corpus(source, tuple(_part(store, weight, stores, data_fraction) for store, weight in stores))
    for part in corpus.parts:
        if not len(part.train):
            raise Refused(f"{part.store.name}: data_fraction={data_fraction} leaves no document to train on: raise it.")
    if not corpus.count("validation"):
        raise Refused(f"{source} has too few documents to hold out one in ten by hash: give more.")
    return corpus


def _part(store: Store, weight: float, stores: list[tuple[Store, float]], fraction: float) -> Part:
    keys = store.keys("train")
    others = [other.keys(split) for other, _ in stores if other is not store for split in ("validation", "test")]
    free = ~np.isin(keys, np.concatenate(others)) if others else np.ones(len(keys), bool)
    chosen = keys < np.uint64(int(fraction * 2**64)) if fraction < 1 else True
    return Part(store, weight, np.flatnonzero(free & chosen), int(np.sum(~free)))
