"""How long steps take, and what is left."""

import time

import pytest

from utils.pace import Pace


class Clock:
    """Takes the place of the clock, and goes on as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_is_left_is_not_known_before_the_first_step(clock: Clock) -> None:
    assert Pace().left_s(10) is None


def test_slow_first_steps_are_forgotten(clock: Clock) -> None:
    pace = Pace(start=100)
    for step, seconds in ((101, 60.0), (102, 2.0), (103, 2.0), (104, 2.0)):
        clock.now += seconds
        pace.mark(step)
        pace.mark(step)  # a step is shown several times: when it ends, and when it is logged
        if step == 101:
            assert pace.left_s(200) == 60 * 99
    assert pace.step_s == pytest.approx(2.0)  # the mean of all would be 16.5
    assert pace.left_s(200) == pytest.approx(2.0 * 96)
    assert pace.elapsed_s == 66.0


def test_what_comes_between_steps_counts(clock: Clock) -> None:
    pace = Pace()
    for step in range(1, 101):
        clock.now += 6.0 if step % 10 == 0 else 1.0  # an evaluation of 5 s every 10 steps
        pace.mark(step)
    assert pace.left_s(200) == pytest.approx(150.0)
