"""When the time of steps has exploded."""

from utils.step_watch import IN_A_ROW, MEASURED, SlowSteps


def test_steps_that_explode_are_told_once_there_are_several_in_a_row() -> None:
    steps = SlowSteps()
    assert [steps.add(2.0) for _ in range(MEASURED)] == [None] * MEASURED
    assert steps.add(30.0) is None  # one long step
    assert steps.add(2.0) is None
    assert [steps.add(seconds) for seconds in (30.0, 25.0)] == [None, None]
    assert steps.add(40.0) == (25.0, 2.0)


def test_neither_short_steps_nor_few_measured_ones_explode() -> None:
    short, few = SlowSteps(), SlowSteps()
    assert not any(short.add(seconds) for seconds in [0.01] * 50 + [0.5] * 10)
    assert not any(few.add(seconds) for seconds in [1.0] * (MEASURED - 1) + [60.0] * IN_A_ROW)
