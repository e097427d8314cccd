"""How long a step takes, measured as steps are done, and how long what is left takes."""

import time
from collections import deque

MOST_MARKS = 2_000


class Pace:
    """The time that steps take, by the newer half of those done here.

    The first steps are slow (memory is taken, kernels are compiled or loaded) and are forgotten so; evaluations and
    checkpoints between steps count, since they will come again.
    """

    def __init__(self, start: int = 0) -> None:
        self.start, self.step = start, start
        self._began = time.monotonic()
        self._marks = deque([(start, self._began)], maxlen=MOST_MARKS)

    def mark(self, step: int) -> None:
        """Note that `step` steps are done."""
        if step <= self.step:
            return
        self.step = step
        self._marks.append((step, time.monotonic()))
        while len(self._marks) > 2 and self._marks[0][0] < self.start + (step - self.start) / 2:
            self._marks.popleft()

    @property
    def elapsed_s(self) -> float:
        """From the beginning to the end of the last step that was marked."""
        return self._marks[-1][1] - self._began

    @property
    def step_s(self) -> float | None:
        """Seconds a step; None before the first is done."""
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        return None if last == first else (ended - began) / (last - first)

    def left_s(self, total: int) -> float | None:
        """Return the seconds that the rest of `total` steps takes; None before the first is done."""
        return None if self.step_s is None else self.step_s * (total - self.step)
