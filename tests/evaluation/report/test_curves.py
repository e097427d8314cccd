"""Curves: few points, none of the spikes lost, alarms where they were raised."""

import re
from random import Random

from algorithms.sft import SFT
from evaluation.report.curves import curves, thinned
from evaluation.report.facts import Facts, StageFacts, sound


def test_thinning_keeps_every_extreme_and_the_order() -> None:
    values = [Random(0).random() for _ in range(10_000)]
    values[4321] = 99.0
    points = list(enumerate(values))
    kept = thinned(points)
    assert len(kept) <= 240
    assert kept == sorted(kept)
    assert {max(points, key=lambda one: one[1]), min(points, key=lambda one: one[1])} <= set(kept)
    assert set(kept) <= set(points)


def test_an_alarm_is_marked_at_its_step() -> None:
    metrics = [{"step": step, "loss": 1 / step} for step in range(1, 101)]
    drawn = []
    for alarms in ([], [{"step": 50, "name": "n", "message": "m"}]):
        stage = StageFacts("sft", SFT, "passed", info=sound({"alarms": alarms}), metrics=metrics)
        ((title, _, picture),) = curves(stage)
        assert picture is not None
        assert title == "loss"
        drawn.append(picture.count("stroke-dasharray"))
    assert drawn == [0, 1]


def test_a_name_of_a_metric_is_neither_markup_nor_mathematics() -> None:
    name = "rewards/<b>$\\frac{$/mean"
    metrics = [{"step": step, "reward": 0.5, name: 1.0} for step in range(1, 9)]
    ((_, _, picture),) = curves(StageFacts("grpo", SFT, "passed", metrics=metrics))
    assert picture is not None
    assert "<b>" not in picture
    assert re.search(r"rewards/&lt;b&gt;\$", picture)


def test_a_stage_that_logged_nothing_has_no_curve() -> None:
    assert curves(StageFacts("sft", SFT, "running", metrics=[{"step": 1, "loss": None}])) == []


def test_a_few_points_are_numbers_and_no_curve() -> None:
    metrics: list[Facts] = [{"step": 4, "loss": 4.5, "eval_loss": None}, {"step": 8, "loss": 1.5, "eval_loss": 2.0}]
    (panel,) = curves(StageFacts("sft", SFT, "passed", metrics=metrics))
    assert panel.picture is None
    assert panel.rows == [(4, [4.5, None]), (8, [1.5, 2.0])]
    metrics += [{"step": step, "loss": 1.0} for step in (12, 16, 20)]
    assert curves(StageFacts("sft", SFT, "passed", metrics=metrics))[0].picture is not None
