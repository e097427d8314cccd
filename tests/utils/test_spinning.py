"""What others use of the cores is counted, and a team that does nothing is there while it is held."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from utils import spinning

HELD = """
import threading, psutil, torch
from utils import spinning
torch.ones(1 << 20).add_(1)
threads = psutil.Process().num_threads
before, release = threads(), threading.Event()
holder = threading.Thread(target=spinning.hold, args=(release,))
holder.start()
while threads() < before + 2:  # the holder, and the other thread of its team
    assert holder.is_alive()
release.set()
holder.join()
while threads() > before:
    pass
print("held")
"""


def test_a_team_is_held_until_it_is_let_go() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD], env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["held"]


def test_what_others_use_is_what_is_busy_less_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")

    class Times(tuple[float, ...]):
        def __getattr__(self, name: str) -> float:
            return float(self[names.index(name)])

    machine, own = [10.0, 5.0, 2.0, 80.0, 3.0, 0.0, 0.0, 0.0, 0.0], [4.0, 1.0]
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(machine))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(
        psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=own[0], system=own[1]))
    )
    others = spinning.Others()
    machine[0], machine[1], machine[3], own[0] = 13.0, 6.0, 84.0, 5.0  # 8 s of two cores: 4 s; 3 busy, 1 of them ours
    assert others.cores() == pytest.approx(2 / 4)
    assert others.cores() == 0, "no time has passed"


@pytest.mark.parametrize("name", spinning.SETTINGS)
def test_what_somebody_has_set_is_respected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(threading, "Thread", lambda **_: SimpleNamespace(start=lambda: started.append(1)))
    for other in spinning.SETTINGS:
        monkeypatch.delenv(other, raising=False)
    share = spinning.share_cores.__wrapped__
    share()
    assert started == [1]
    monkeypatch.setenv(name, "1")
    share()
    assert started == [1]
