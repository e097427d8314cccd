"""What a stage's time goes into: reading, forward and backward passes, the optimizer, sampling, measuring, saving."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Phase = Literal["reading", "forward and backward", "optimizer", "sampling", "rewards", "measuring", "saving"]


class Phases:
    """Seconds of each phase. What happens within another phase is taken off that one's.

    On a GPU it is the time in which work is handed over, and waited for: sampling and the end of each step wait.
    """

    def __init__(self, earlier: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(earlier or {})
        self._open: list[str] = []
        self._since = 0.0

    def begin(self, name: Phase) -> int:
        """Let the time from now on be of this phase; return how many are around it, with which it is ended."""
        self._count()
        self._open.append(name)
        return len(self._open) - 1

    def end(self, around: int = 0) -> None:
        """Let it be of the phase around it again, or of none; what an error left open within is ended, too."""
        self._count()
        del self._open[around:]

    def _count(self) -> None:
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_counted = Phases()
"""Those of the stage under way; outside of any, what nobody reads."""


def current() -> Phases:
    """Return the phases of the stage under way."""
    return _counted


@contextmanager
def counted(phases: Phases) -> Iterator[None]:
    """Count into these phases while open."""
    global _counted
    before, _counted = _counted, phases
    try:
        yield
    finally:
        _counted = before


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Let what is done while open be of a phase of the stage under way."""
    phases = current()
    around = phases.begin(name)
    try:
        yield
    finally:
        phases.end(around)


def of_phase(name: Phase, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does that work in that phase."""

    @functools.wraps(work)
    def done(*given: Any, **named: Any) -> Any:
        with phase(name):
            return work(*given, **named)

    return done
