"""A stage's training, watched: its progress, the time, energy and memory that it takes, and its alarms."""

import os
import statistics
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack

from utils.console import Bar, progress
from utils.limits import kept
from utils.runtime import device
from utils.stage_log import StageLog
from watching import alarms, gpu_memory
from watching.energy import counted

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


class StageWatch:
    """The training of a stage, watched: its bar, the time, energy and memory that it takes, and its alarms, each once.

    Of several processes the first shows and records. Close it when training ends or fails.
    """

    def __init__(self, log: StageLog, description: str, shown: Mapping[str, str]) -> None:
        self.log, self.description = log, description
        self.shown = shown
        """The metrics that the bar shows, by their own name the one that it shows."""
        self.slow_steps, self.throughput = SlowSteps(), Throughput()
        self._raised = set[str]()
        self._bar: Bar | None = None
        self._newest: dict[str, float | str] = {}
        self._step_began = time.monotonic()
        self._first = True
        self._since_line_s = 0.0
        self._tokens: float | None = None
        self._open = ExitStack()
        self._spent = self._open.enter_context(counted(log))

    def close(self) -> None:
        """Take the bar away, and end the count of what the stage takes if this began it."""
        self._open.close()

    def start(self, total: int, step: int) -> None:
        """Open the bar of `total` steps, of which `step` were done before."""
        self._raised = {alarm["name"] for alarm in self.log.read_info().get("alarms") or []}
        self._bar = self._open.enter_context(progress(self.description, total, step))
        self.begin_step()

    def begin_step(self) -> None:
        """Let the time until now be no step's: it went into an evaluation or a checkpoint."""
        self._step_began = time.monotonic()

    def done(self, step: int) -> None:
        """Show that `step` steps are done, and look at the time and the memory that the last one took."""
        self._update(step)
        seconds = time.monotonic() - self._step_began
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
        self.begin_step()

    def logged(self, step: int, rows: alarms.Rows, *, share_done: float = 0.0, beta: float = 0.0) -> None:
        """Show the metrics of the newest of all logged rows, and raise the alarms that they give reason for."""
        newest = rows[-1]
        self._newest |= {name: newest[key] for key, name in self.shown.items() if newest.get(key) is not None}
        self._update(step)
        if "num_tokens" in newest:
            self._look_at_throughput(step, newest["num_tokens"])
        for name, message in alarms.found(rows, share_done=share_done, beta=beta):
            self.alarm(step, name, message)

    def saved(self, name: str) -> None:
        """Record a checkpoint, and what the stage has taken: after a kill nobody else can tell."""
        self.log.event("CHECKPOINT", name)
        self.log.info(**self._spent.until_now())
        self.begin_step()

    def out_of_time(self) -> str | None:
        """Say why the run must stop for its limit of time; None if it may go on."""
        assert self._bar is not None
        return kept().out_of_time(self._bar.pace, self._bar.total)

    def alarm(self, step: int, name: str, message: str) -> None:
        """Raise an alarm, unless it has been raised in this stage."""
        if name not in self._raised:
            self._raised.add(name)
            self.log.alarm(step, name, message)

    def _update(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(step, **self._newest)

    def _look_at_throughput(self, step: int, tokens: float) -> None:
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
