"""The steps of a training loop, watched: alarms where their time explodes, or memory is reserved beyond the card."""

import statistics
import time
from collections import deque

from utils import gpu_memory
from utils.limits import kept
from utils.stage_log import StageLog

SLOWER, LEAST_S, IN_A_ROW, MEASURED = 4.0, 1.0, 3, 20
"""A step is slow that takes so many times the median of the `MEASURED` or more before it, and at least `LEAST_S`; so
many in a row have exploded. One alone may be a long row, an evaluation, or GRPO's sampling."""


class SlowSteps:
    """Tells steps whose time explodes from those that are now and then longer."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=100)
        self._slow: list[float] = []

    def add(self, seconds: float) -> tuple[float, float] | None:
        """Take the time of a step; return what steps take now and what they took before, where that has exploded."""
        if len(self._usual) < MEASURED or seconds < max(LEAST_S, SLOWER * statistics.median(self._usual)):
            self._usual.extend((*self._slow, seconds))
            self._slow = []
            return None
        self._slow.append(seconds)
        return (min(self._slow), statistics.median(self._usual)) if len(self._slow) >= IN_A_ROW else None


class StepWatch:
    """Watches time and memory of a stage's steps; raises each alarm once, and caps the process anew."""

    def __init__(self, log: StageLog) -> None:
        self.log = log
        self.slow_steps = SlowSteps()
        self._raised = {alarm["name"] for alarm in log.read_info().get("alarms") or []}
        self._began = time.monotonic()
        self._first = True

    def begin(self) -> None:
        """Let the time until now be no step's: it went into an evaluation or a checkpoint."""
        self._began = time.monotonic()

    def done(self, step: int) -> None:
        """Look at the step that has ended."""
        slower = self.slow_steps.add(time.monotonic() - self._began)
        if slower:
            self.alarm(
                step,
                "slow_steps",
                f"steps take {slower[0]:.1f} s or more, {slower[0] / slower[1]:.0f} times the {slower[1]:.2g} s before."
                " Rows may have become longer. Otherwise the GPU is out of memory and its driver uses the computer's"
                " (Windows and WSL), too hot, or busy with another program. Try --memory-budget, a smaller"
                " per_device_train_batch_size, and nvidia-smi to see what else runs",
            )
        if self._first:  # the CUDA context holds the kernels of a whole step now
            gpu_memory.keep_within(kept().limits.memory_budget_bytes)
            self._first = False
        beyond = gpu_memory.beyond(kept().limits.memory_budget_bytes)
        if beyond:
            self.alarm(step, "memory_beyond_card", beyond)
        self.begin()

    def alarm(self, step: int, name: str, message: str) -> None:
        """Raise an alarm, unless it has been raised in this stage."""
        if name not in self._raised:
            self._raised.add(name)
            self.log.alarm(step, name, message)
