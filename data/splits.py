"""The held-out split: by a hash of the prompt or document, so that every stage holds out the same problems."""

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32


def normalised(key: str) -> str:
    """Return `key` case-folded, every run of whitespace as one space: what decides whether two problems are one.

    >>> normalised("  What is\\n2 + 2? ")
    'what is 2 + 2?'
    """
    return " ".join(key.casefold().split())


def position(key: str) -> float:
    """Return the place of `key` in [0, 1): crc32 of its normalised text, over 2**32."""
    return crc32(normalised(key).encode()) / 2**32


def held_out(key: str, fraction: float) -> bool:
    """Return whether the problem or document `key` is on the held-out side.

    Depends on the text alone: neither on the stage, the data set nor the seed. What a fraction holds out, every larger
    one holds out too.
    """
    return position(key) < fraction


def key_of(row: Mapping[str, Any]) -> str:
    """Return the text that a row in its stage's layout is split by.

    A document's whole text; of a plain prompt the prompt; of a conversation the first user turn, whatever system prompt
    stands before it and whatever turns follow, so that the same question falls on the same side in SFT, DPO and GRPO.
    """
    for column in ("prompt", "messages", "text"):
        value = row.get(column)
        if isinstance(value, str):
            return value
        if value:
            first = next((message for message in value if message["role"] == "user"), value[0])
            return str(first["content"])
    raise KeyError(f"no text to split by in columns {sorted(row)}")


def two_sides(keys: Iterable[str], fraction: float) -> tuple[list[int], list[int]]:
    """Return the indices of the training rows and of the held-out rows."""
    sides: tuple[list[int], list[int]] = ([], [])
    for index, key in enumerate(keys):
        sides[held_out(key, fraction)].append(index)
    return sides
