"""What a run may take: memory and time, as a user states them, and as every stage is told them."""

import math
import re
import time
from dataclasses import dataclass

from utils.pace import Pace

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


class Clock:
    """The limits of a run, and since when they count: every stage is passed it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits, self._since = limits or Limits(), time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds that are left of `max_hours`; infinite without a limit."""
        if self.limits.max_hours is None:
            return math.inf
        return self.limits.max_hours * 3600 - (time.monotonic() - self._since)

    def out_of_time(self, pace: Pace, total: int) -> str | None:
        """Say why a loop of `total` steps has to stop for `max_hours`, and what to change; None if it may go on.

        What is left is believed once 5 steps are measured over a minute, or over a tenth of the limit if that is less.
        """
        left_s, needed_s, step_s = self.left_s, pace.left_s(total), pace.step_s
        if math.isinf(left_s) or not needed_s or not step_s:
            return None
        limit_s = (self.limits.max_hours or 0.0) * 3600
        measured = pace.step - pace.start >= TRUSTED_STEPS and pace.elapsed_s >= min(TRUSTED_S, limit_s / 10)
        if left_s > 0 and not (measured and needed_s > left_s * TOLERANCE):
            return None
        seen = f"step {pace.step} of {total}, {step_s:.3g} s a step: what is left takes {needed_s / 3600:.3g} h"
        fits = pace.step + math.floor(max(left_s, 0.0) / step_s)
        allowed = f"--max-hours {self.limits.max_hours:g}"
        over = f"{allowed} are over" if left_s <= 0 else f"{allowed} leave {left_s / 3600:.3g} h"
        enough = math.ceil(needed_s * TOLERANCE / 36) / 100
        return (
            f"stopped for time. {seen}, and {over}. Nothing is lost: continued with --max-hours {enough:g} or more it "
            f"ends. A new run would fit with max_steps={fits}, shorter sequences, or a faster GPU"
        )


TRUSTED_STEPS, TRUSTED_S = 5, 60.0
TOLERANCE = 1.1  # an estimate is no measurement: a stage that seems to be late by less goes on
