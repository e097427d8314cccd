"""Cores that other programs keep busy: how long OpenMP's threads spin there, waiting for one another.

A step of a small model is thousands of small operations, at the end of each of which the threads wait for the last.
They spin, which is fastest while each has a core. Where another program has the core of one, the others spin for
milliseconds and wait for nothing: steps took 4 to 20 times as long. libgomp spins briefly where it has more threads
than there are cores. So while others are busy, a thread that does nothing is held with a team of its own; neither the
number of threads that compute nor any result changes.
"""

import os
import sys
import threading
from functools import cache

import psutil

EVERY_S = 1.0
BUSY, IDLE = 0.3, 0.1
"""Cores that others use, above which spinning is short, and below which it is long again."""
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
"""What somebody has set of these is as they want it."""
PARALLEL = 1 << 20
"""Elements of which torch adds with all its threads."""


@cache
def share_cores() -> None:
    """Spin briefly from now on, whenever other programs keep cores busy; once for a process."""
    if not any(name in os.environ for name in SETTINGS):
        threading.Thread(target=_watch, name="sixgig-cores", daemon=True).start()


def _watch() -> None:
    others, release = Others(), threading.Event()
    holder: threading.Thread | None = None
    while True:
        threading.Event().wait(EVERY_S)
        busy = others.cores()
        if holder is None and busy > BUSY and "torch" in sys.modules:
            release.clear()
            holder = threading.Thread(target=hold, args=(release,), daemon=True)
            holder.start()
        elif holder is not None and busy < IDLE:
            release.set()
            holder.join()
            holder = None


def hold(release: threading.Event) -> None:
    """Have a team of OpenMP's threads that does nothing, until `release` is set; it ends with the calling thread."""
    import torch

    torch.ones(PARALLEL).add_(1)
    release.wait()


class Others:
    """How many cores other programs use, each time since the last; programs of low priority do not count."""

    def __init__(self) -> None:
        self._now = self._times()

    def _times(self) -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0) + machine.nice
        whole = sum(machine[:8])  # what guests use is in that of the host
        return whole, whole - idle, own.user + own.system

    def cores(self) -> float:
        """Return the cores that others used, as a mean."""
        before, self._now = self._now, self._times()
        whole, busy, own = (now - then for now, then in zip(self._now, before, strict=True))
        seconds = whole / (psutil.cpu_count() or 1)
        return max(0.0, (busy - own) / seconds) if seconds else 0.0
