"""The steps of a training loop, watched: alarms where they become slow, or memory is reserved beyond the card."""

import os
import statistics
import time
from collections import deque

from records.stage_log import StageLog
from utils import gpu_memory
from utils.limits import kept
from utils.runtime import device

SLOWER, LEAST_S, IN_A_ROW, MEASURED = 4.0, 1.0, 3, 20
"""A step is slow that takes so many times the median of the `MEASURED` or more before it, and at least `LEAST_S`; so
many in a row have exploded. One alone may be a long row, an evaluation, or GRPO's sampling."""
HALVED, RATES, LEAST_RATES, SLOW_FOR_S = 0.5, 10, 20, 60.0
"""Throughput has fallen by half if the last `RATES` logged lines, which took `SLOW_FOR_S` or more, have less than half
of the tokens a second of the median of the `LEAST_RATES` or more before: a line of few steps may hold short rows."""


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


class Throughput:
    """Tells when the tokens a second have fallen by half for good."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=100)
        self._newest: deque[tuple[float, float]] = deque(maxlen=RATES)

    def add(self, tokens: float, seconds: float) -> tuple[float, float] | None:
        """Take what was done since the line before; return tokens a second now and before where they have halved."""
        if seconds <= 0:
            return None
        if len(self._newest) == RATES:
            left, took = self._newest[0]
            self._usual.append(left / took)
        self._newest.append((tokens, seconds))
        all_tokens, all_s = (sum(column) for column in zip(*self._newest, strict=True))
        if len(self._usual) < LEAST_RATES or all_s < SLOW_FOR_S:
            return None
        before, now = statistics.median(self._usual), all_tokens / all_s
        return (now, before) if now < HALVED * before else None


SLOW_CPU = "another program keeps the cores busy, or memory is swapped out: look with top what else runs"
SLOW_GPU = (
    "the GPU is out of memory and its driver uses the computer's (Windows and WSL), too hot, or busy with another"
    " program. Try --memory-budget, a smaller per_device_train_batch_size, and nvidia-smi to see what else runs"
)


class StepWatch:
    """Watches time and memory of a stage's steps; raises each alarm once, and caps the process anew."""

    def __init__(self, log: StageLog) -> None:
        self.log = log
        self.slow_steps, self.throughput = SlowSteps(), Throughput()
        self._raised = {alarm["name"] for alarm in log.read_info().get("alarms") or []}
        self._began = time.monotonic()
        self._first = True
        self._since_line_s = 0.0
        self._tokens: float | None = None

    def begin(self) -> None:
        """Let the time until now be no step's: it went into an evaluation or a checkpoint."""
        self._began = time.monotonic()

    def done(self, step: int) -> None:
        """Look at the step that has ended."""
        seconds = time.monotonic() - self._began
        self._since_line_s += seconds
        slower = self.slow_steps.add(seconds)
        if slower:
            self.alarm(
                step,
                "slow_steps",
                f"steps take {slower[0]:.1f} s or more, {slower[0] / slower[1]:.0f} times the {slower[1]:.2g} s before."
                f" Rows may have become longer. Otherwise {SLOW_CPU if device() == 'cpu' else SLOW_GPU}",
            )
        if self._first:  # the CUDA context holds the kernels of a whole step now
            gpu_memory.keep_within(kept().limits.memory_budget_bytes)
            self._first = False
        beyond = gpu_memory.beyond(kept().limits.memory_budget_bytes)
        if beyond:
            self.alarm(step, "memory_beyond_card", beyond)
        self.begin()

    def logged(self, step: int, tokens: float) -> None:
        """Look at the steps since the last logged line; `tokens` were seen in all.

        Where other programs keep the processors busy, they are the reason, and it is not told.
        """
        before, self._tokens = self._tokens, tokens
        seconds, self._since_line_s = self._since_line_s, 0.0
        rates = None if before is None else self.throughput.add(tokens - before, seconds)
        if rates and os.getloadavg()[0] < 1.5 * (os.cpu_count() or 1):
            self.alarm(
                step,
                "falling_throughput",
                f"{rates[0]:,.0f} tokens a second are trained on, {rates[1]:,.0f} before: the rest takes twice as long."
                " Is the GPU too hot (nvidia-smi -q -d PERFORMANCE), memory swapped out, the disk slow, or has the"
                " power supply been unplugged? A stop with Ctrl-C and --resume lose nothing",
            )

    def alarm(self, step: int, name: str, message: str) -> None:
        """Raise an alarm, unless it has been raised in this stage."""
        if name not in self._raised:
            self._raised.add(name)
            self.log.alarm(step, name, message)
