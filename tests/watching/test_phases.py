"""What a stage's time goes into: phases within phases, errors, parts of a stage, and real trainings."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig
from evaluation.costs import OTHER, phase_shares, tokens_a_second
from records.stage_log import StageLog
from tests.algorithms.conftest import configure, data_files, model_dir, stage_dir
from tests.train_stage import train
from watching import phases
from watching.energy import Spent, counted
from watching.phases import Phases, phase

__all__ = ["configure", "data_files", "model_dir", "stage_dir"]  # fixtures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time, which passes when the test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_what_happens_within_a_phase_is_taken_off_it(clock: Callable[[float], None]) -> None:
    found = Phases()
    with phases.counted(found):
        clock(5)
        with phase("forward and backward"):
            clock(1)
            with phase("sampling"):
                clock(2)
            clock(4)
        clock(9)
        with phase("sampling"):
            clock(1)
    assert found.seconds == {"forward and backward": 5, "sampling": 3}


def test_a_phase_that_an_error_leaves_is_over(clock: Callable[[float], None]) -> None:
    found = Phases()

    def fail() -> None:
        found.begin("optimizer")
        clock(1)
        raise ValueError("no")

    with phases.counted(found):
        with pytest.raises(ValueError, match="no"):
            phases.of_phase("saving", fail)()
        clock(7)
        found.begin("optimizer")  # of an attempt that failed
        clock(2)
        found.end()
        clock(7)
    assert found.seconds == {"saving": 0, "optimizer": 3}


def test_a_stage_that_goes_on_adds_to_what_its_earlier_part_took(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    log = StageLog(tmp_path)
    log.open()
    for _ in range(2):
        with counted(log) as spent:
            with phase("reading"):
                clock(3)
            clock(1)
            log.info(**spent.until_now())
    assert log.read_info()["phases_s"] == {"reading": 6}
    assert log.read_info()["duration_s"] == 8
    assert Spent(log).phases.seconds == {"reading": 6}


def test_shares_are_of_the_whole_time_and_the_rest_is_named() -> None:
    stage = {"duration_s": 10.0, "phases_s": {"reading": 1.0, "forward and backward": 4.0, "saving": 2.0}, "tokens": 50}
    assert phase_shares(stage) == {"forward and backward": 0.4, "saving": 0.2, "reading": 0.1, OTHER: 0.3}
    assert tokens_a_second(stage) == 10
    assert phase_shares({"duration_s": 3.0}) == phase_shares({"duration_s": None, "phases_s": {"a": 1.0}}) == {}
    assert tokens_a_second({"tokens": 5}) is None


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


PASSES = {"reading", "forward and backward", "optimizer", "saving"}


@pytest.mark.parametrize(("kind", "more"), [("sft", set()), ("dpo", set()), ("grpo", {"sampling", "rewards"})])
def test_trainers_tell_their_phases(kind: str, more: set[str], configure: Callable[..., Any], stage_dir: Path) -> None:
    extra = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=8, preflight_prompts=0)
    train(kind, configure(kind), stage_dir, extra)
    info = StageLog(stage_dir).read_info()
    assert set(info["phases_s"]) == PASSES | more
    assert 0 < sum(info["phases_s"].values()) <= info["duration_s"]
    assert phase_shares(info)[OTHER] < 1
