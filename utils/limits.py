"""What a run may take: memory and time, as a user states them, and as every stage is told them."""

import math
import re
from dataclasses import dataclass

UNITS_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{kind}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for kind, base in (("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may take at most."""

    memory_budget_bytes: int | None = None
    """Of the GPU's memory, the context and what other programs hold there included. None: all of it."""
    max_hours: float | None = None
    """From the start of the run, or of its resumption. None: no limit."""


def size_bytes_of(text: str | int) -> int:
    """Return a size in bytes: `6GiB` is 6·2**30, `6GB` 6·10**9, a bare number bytes.

    >>> size_bytes_of("5.5 GiB")
    5905580032

    Raises:
        ValueError: it is none, or below 1 MiB.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", str(text).strip().lower())
    size_bytes = float(found[1]) * UNITS_BYTES[found[2]] if found and found[2] in UNITS_BYTES else 0.0
    if size_bytes < 2**20:  # a bare 6 was hardly meant for six bytes
        raise ValueError(f"{text}: must be a size of at least 1MiB, such as 6GiB or 5500MiB")
    return int(size_bytes)


def hours(text: str | float) -> float:
    """Return a number of hours.

    Raises:
        ValueError: it is none, or not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0 or not math.isfinite(value):
        raise ValueError(f"{text}: must be hours above 0, such as 8 or 0.5")
    return value
