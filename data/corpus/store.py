"""The documents of one source on disk: normalised, without duplicates, split by their hash or as published."""

from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.corpus.cache import made_once, metered, root
from data.corpus.documents import SPLITS, Source
from data.corpus.ragged import Ragged, Writer
from data.splits import normalised, position
from utils.console import warn
from utils.errors import Refused

VERSION = "2"
"""Of all that decides which documents there are, beside their source; another one makes every store anew."""
TEST_SHARE, HELD_OUT_SHARE = 0.01, 0.11
"""Documents whose position is below the first are for the test, up to the second for validation."""


class Store:
    """A source's documents and their keys, memory-mapped."""

    def __init__(self, name: str, key: str, directory: Path, meta: dict[str, Any]) -> None:
        self.name, self.key, self.directory, self.meta = name, key, directory, meta

    def texts(self, split: str) -> Ragged:
        """Return the documents of train, validation or test, as UTF-8 bytes."""
        return Ragged(self.directory / split)

    def keys(self, split: str) -> NDArray[np.uint64]:
        """Return a hash of each document's normalised text: documents that differ in case and spaces only share it."""
        return np.load(self.directory / f"{split}.keys.npy", mmap_mode="r").view(np.ndarray)


def stored(source: Source, *, alone: bool) -> Store:
    """Return the documents of `source`, reading them the first time; a source that is `alone` must hold some out.

    Raises:
        Refused: the source cannot be read, or leaves nothing to train on or, alone, to validate on.
    """
    key = f"{source.key}-{VERSION}"
    directory = root() / "documents" / key
    meta = made_once(directory, f"the documents of {source.name}", lambda partial: _write(source, partial, alone))
    return Store(source.name, key, directory, meta)


def _write(source: Source, directory: Path, alone: bool) -> dict[str, Any]:
    left_out = {"empty": 0, "duplicates": 0, "held_out": 0}
    keys = {split: array("Q") for split in SPLITS}
    seen: set[bytes] = set()  # 16 bytes a document, not its text
    published: set[bytes] = set()
    named = source.open()
    with ExitStack() as stack:
        read = stack.enter_context(metered(f"read {source.name}", source.size_bytes or 0))
        writers = {split: stack.enter_context(Writer(directory / split)) for split in SPLITS}
        for split in SPLITS:
            here: set[bytes] = set()
            for raw in named.get(split, ()):
                text = raw if source.as_it_is else raw.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
                content = text.encode()
                read(len(content))
                digest, key = _digest(content), _digest(normalised(text).encode())
                if not content.strip():
                    left_out["empty"] += 1
                elif not source.as_it_is and key in published:
                    left_out["held_out"] += 1
                elif not source.as_it_is and digest in seen:
                    left_out["duplicates"] += 1
                else:
                    seen.add(digest)
                    if split != "train":
                        here.add(key)
                    target = _side(text, named) if split == "train" else split
                    writers[target].append(content)
                    keys[target].append(int.from_bytes(key[:8], "big"))
            published |= here
    for split in SPLITS:
        np.save(directory / f"{split}.keys.npy", np.array(keys[split], np.uint64))
    _refuse_empty(source.name, {split: len(keys[split]) for split in SPLITS}, left_out, alone)
    overlap = {  # keys that each pair of splits shares
        f"{one}/{other}": len(np.intersect1d(keys[one], keys[other])) for one, other in combinations(SPLITS[::-1], 2)
    }
    if any(overlap.values()):
        warn(f"{source.name}: documents in two splits: {overlap}")
    sizes = {split: (directory / f"{split}.bin").stat().st_size for split in SPLITS}
    counts = {split: {"documents": len(keys[split]), "bytes": sizes[split]} for split in SPLITS}
    return {"name": source.name, "splits": counts, "left_out": left_out, "overlap": overlap}


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _side(text: str, published: Iterable[str]) -> str:
    """Return the split of a document that is published for training: held out, by its hash, where nothing else is."""
    place = position(text)
    side = "test" if place < TEST_SHARE else "validation" if place < HELD_OUT_SHARE else "train"
    return "train" if side in published else side


def _refuse_empty(name: str, documents: dict[str, int], left_out: dict[str, int], alone: bool) -> None:
    parted = "In a .txt file, blank lines part documents, or a separator that you name."
    if not any(documents.values()):
        raise Refused(f"{name} has no documents: it is empty ({left_out['empty']} without text). Give it some text.")
    if not documents["train"] or (alone and not documents["validation"]):
        lacks = "train on" if not documents["train"] else "validate on"
        raise Refused(
            f"{name} has {sum(documents.values())} documents, and none of them to {lacks}: a tenth is held out by its "
            f"hash. Give more, or folders' files named train and validation. {parted}"
        )
