"""The prompts that are shown: of every kind, by the stated rule."""

from collections.abc import Callable
from pathlib import Path

from evaluation.report.facts import read_run
from evaluation.report.prompts import chosen

STAGES = {"pretrain": "passed", "sft": "passed", "dpo": "passed"}


def test_improvements_and_regressions_are_both_shown(make_run: Callable[..., Path]) -> None:
    """Of SCORES: 0, 3, 4, 6 improve, 1 falls back, 2 and 5 stay; one place is free, and goes to the first other."""
    asked, rule = chosen(read_run(make_run(**STAGES)))
    assert [one.text for one in asked] == [f"question {number}" for number in (0, 1, 2, 3, 4)]
    assert "7 held-out prompts: 4 improved, 1 got worse at some stage, 2 did not improve" in rule


def test_each_answer_stands_under_the_stage_that_gave_it(make_run: Callable[..., Path]) -> None:
    asked, _ = chosen(read_run(make_run(**STAGES)))
    assert {stage: answer.text for stage, answer in asked[1].answers.items()} == {
        "pretrain": "says 0",
        "sft": "says 1",
        "dpo": "says 0",
    }


def test_an_input_that_is_no_stage_of_the_run_has_a_column(make_run: Callable[..., Path]) -> None:
    asked, _ = chosen(read_run(make_run(sft="passed")))
    assert list(asked[0].answers) == ["input", "sft"]
