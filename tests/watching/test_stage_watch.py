"""When the time of steps has exploded, and when their throughput has halved."""

import os
from pathlib import Path

import pytest

from utils.stage_log import StageLog
from watching.stage_watch import IN_A_ROW, LEAST_RATES, MEASURED, RATES, SlowSteps, StageWatch, Throughput


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


def test_throughput_has_halved_when_a_minute_of_lines_says_so() -> None:
    rates = Throughput()
    usual = LEAST_RATES + RATES
    assert not any(rates.add(1000, 10.0) for _ in range(usual))
    # 100 tokens a second, then 25: four lines of the ten make it 220 s for 10,000 tokens, three 190 s.
    assert [rates.add(1000, 40.0) for _ in range(3)] == [None] * 3  # 10,000 / 190 s
    halved = rates.add(1000, 40.0)
    assert halved is not None
    assert halved == pytest.approx((10_000 / 220, 100.0))


def test_neither_short_rows_nor_a_short_dip_nor_few_lines_halve_it() -> None:
    rates, quick, few = Throughput(), Throughput(), Throughput()
    assert not any(rates.add(1000 + 900 * (line % 3 - 1), 10.0) for line in range(100))
    assert not any(rates.add(1000, seconds) for seconds in [40.0] * 2 + [10.0] * 20)
    assert not any(quick.add(1000, 0.1 if line < 50 else 2.0) for line in range(75))  # 50 s at the new rate at most
    assert not any(few.add(1000, 10.0 if line < LEAST_RATES else 40.0) for line in range(LEAST_RATES + RATES - 1))


@pytest.mark.parametrize(("load", "told"), [(0.5, 1), (100.0, 0)])
def test_a_slow_stage_is_told_once_and_not_where_other_programs_keep_the_processors_busy(
    load: float, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr("watching.gpu_memory.keep_within", lambda _: None)
    log = StageLog(tmp_path)
    log.open(name="sft")
    clock = [0.0]
    monkeypatch.setattr("watching.stage_watch.time.monotonic", lambda: clock[0])
    watch = StageWatch(log, "sft", {})
    for step in range(1, 80):
        clock[0] += 10.0 if step < 50 else 25.0
        watch.done(step)
        clock[0] += 500.0  # an evaluation
        watch.begin_step()
        watch.logged(step, [{"num_tokens": 1000.0 * step}])
    assert [alarm["name"] for alarm in log.read_info()["alarms"]] == ["falling_throughput"] * told
    assert told == 0 or "tokens a second are trained on, 100 before" in log.read_info()["alarms"][0]["message"]
