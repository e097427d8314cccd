"""What is wrong with single rows of a source: counted by reason, and left out only where that share is allowed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.console import warn
from utils.errors import Refused

MAY_TEACH_NOTHING = 0.1
"""Share of rows that can teach nothing, or repeat others, that is left out unless the recipe says otherwise."""
NAMED = 5  # rows of each reason that are told


@dataclass
class Fault:
    """One reason, and the rows that have it."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Where the first of them stand: `row 3`, `line 7`."""
    example: str = ""
    """What is wrong with the first."""


class Faults:
    """The faults of one source.

    `allowed` is the share of its rows that the recipe lets go, `max_dropped_fraction`. None: no row that is not what
    its column or file should hold, since that is a file written wrongly; of readable rows that can teach nothing,
    `MAY_TEACH_NOTHING`, since published sets have some.
    """

    def __init__(self, name: str, allowed: float | None = None) -> None:
        self.name = name
        self.allowed = allowed
        self.read_as = ""
        """The columns that they were read as, and for what."""
        self.found: dict[str, Fault] = {}
        self.unreadable = 0
        """Rows among them that are not what their column or file should hold."""
        self.numbers: set[int] = set()
        """The rows among them that were read, from 1; the others are `broken`."""

    def add(self, reason: str, where: str, example: str, *, readable: bool = False, number: int | None = None) -> None:
        """Count one row that is left out; `number` is its own among the rows that were read, None: it was not."""
        if number is not None:
            self.numbers.add(number)
        fault = self.found.setdefault(reason, Fault(example=example))
        fault.count += 1
        if len(fault.first) < NAMED:
            fault.first.append(where)
        self.unreadable += not readable

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason."""
        return {reason: fault.count for reason, fault in self.found.items()}

    @property
    def count(self) -> int:
        """Rows that have a fault."""
        return sum(self.counts.values())

    @property
    def broken(self) -> int:
        """Rows of them that could not be read from their file."""
        return self.count - len(self.numbers)

    def judge(self, rows: int) -> str:
        """Return what is to be told of those of a source's `rows` that are left out; "" if none is.

        Raises:
            Refused: they are all, or more than is allowed; names every reason.
        """
        if not self.count:
            return ""
        read_as = f" (read as {self.read_as})" if self.read_as else ""
        message = f"{self.name}: {self.count} of {rows} rows cannot be used{read_as}:{self._reasons()}"
        if self.count == rows:
            raise Refused(f"{message}\nNo row is left: mend them, or choose other data.")
        limit = MAY_TEACH_NOTHING if self.allowed is None else self.allowed
        if self.allowed is None and self.unreadable:
            rule = "Malformed rows are left out only where the recipe says so"
        elif self.count > limit * rows:
            rule = f"At most {100 * limit:g} % may be left out"
        else:
            return f"{message}\nThey are left out."
        needed = math.ceil(1000 * self.count / rows) / 1000
        raise Refused(f"{message}\n{rule}: mend them, or set max_dropped_fraction={needed:g} to leave them out.")

    def _reasons(self) -> str:
        lines = []
        for reason, fault in self.found.items():
            others = [*fault.first[1:], *(["…"] if fault.count > len(fault.first) else [])]
            also = f" (also {', '.join(others)})" if others else ""
            lines.append(f"\n  {fault.count} × {reason}{also}, {fault.first[0]}: {fault.example.rstrip('.')}")
        return "".join(lines)


def tell_unread(numbers: Mapping[str, int], rows: int, name: str) -> None:
    """Tell in how many of so many rows the turns have text under a key that no stage reads.

    Raises:
        Refused: most rows have.
    """
    for key, count in numbers.items():
        message = f"{name}: in {count} of {rows} rows a turn has text under {key!r}, which no stage reads"
        if count > rows / 2:
            raise Refused(
                f"{message}. Say what it is, such as columns={{'reasoning_content': {key!r}}} for what the assistant "
                f"thinks before it answers, or leave it out: columns={{{key!r}: None}}."
            )
        warn(message)
