"""Steps are timed beside others, and the others are gone afterwards."""

import psutil
import pytest

from benchmarks import busy_cores


@pytest.mark.slow
@pytest.mark.parametrize(("way", "busy"), [("sixgig", 1), ("one thread", 0)])
def test_steps_are_timed_beside_others(way: str, busy: int) -> None:
    before = {child.pid for child in psutil.Process().children()}
    taken = busy_cores.measured(way, busy, steps=2, warm_s=0.0)
    assert len(taken) == 2
    assert min(taken) > 0
    assert {child.pid for child in psutil.Process().children()} <= before
