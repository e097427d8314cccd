"""Gates: what is refused of them, and decisions worked by hand and by simulation."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evaluation import evaluate_stage
from evaluation.gates import decide, line, measurable, problems
from evaluation.paired import mean_score, paired_difference, with_noise
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, PromptTask, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs
from kinds import named
from recipes.arithmetic import VERIFIER

SFT = named("sft")

METRICS = ["skills strict", "skills completion_tokens", "demonstrations loss", "pairs accuracy/*"]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt metric": ({"metric": "skills strickt", "at_least": 0.5}, "did you mean 'skills strict'"),
    "misspelt metric, against the input": ({"metric": "skills strickt", "not_below_input": 0.5}, "did you mean"),
    "no metric": ({"at_least": 0.5}, "metric = None"),
    "metric of another type": ({"metric": 3, "at_least": 0.5}, "metric = 3"),
    "no rule": ({"metric": "skills strict"}, "must have one of at_least, at_most"),
    "two rules": ({"metric": "skills strict", "at_least": 0.5, "not_below_input": 0.1}, "at_least and not_below_input"),
    "misspelt rule": ({"metric": "skills strict", "atleast": 0.5}, "did you mean 'at_least'"),
    "no number": ({"metric": "skills strict", "at_least": "0.5"}, "must be a number"),
    "not a number": ({"metric": "skills strict", "at_least": math.nan}, "must be a number"),
    "a truth as a number": ({"metric": "skills strict", "not_below_input": True}, "must be a number"),
    "per cent": ({"metric": "skills strict", "at_least": 60}, "from 0 to 1"),
    "negative loss": ({"metric": "skills strict", "not_below_input": -0.1}, "0 or more"),
    "not better": ({"metric": "skills strict", "better_than_input": False}, "must be True"),
    "at least of a loss": ({"metric": "demonstrations loss", "at_least": 2}, "less is better: take at_most"),
    "at most of a share": ({"metric": "skills strict", "at_most": 0.5}, "more is better: take at_least"),
    "neither way": ({"metric": "skills completion_tokens", "not_below_input": 1}, "neither more nor less"),
    "negative noise": ({"metric": "skills strict", "at_least": 0.5, "noise": -1}, "standard deviation over seeds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_gate_that_cannot_be_meant_is_one_problem(case: str) -> None:
    gate, message = REFUSED[case]
    found = list(problems([gate], METRICS, METRICS))
    assert any(message in problem for problem in found), found
    assert len(found) == (2 if case == "misspelt rule" else 1)  # which leaves the gate without one


def test_sound_gates_have_no_problem() -> None:
    gates = [
        {"metric": "skills strict", "at_least": 0.6},
        {"metric": "skills strict", "not_below_input": 0, "noise": 0.01},
        {"metric": "pairs accuracy/rambling", "better_than_input": True},
        {"metric": "demonstrations loss", "at_most": 2},
        {"metric": "skills completion_tokens", "at_most": 40},
    ]
    assert list(problems(gates, METRICS, METRICS)) == []
    assert len(list(problems(gates, METRICS, []))) == 2  # of the two that ask about the input


def result(metric: str, before: list[float], after: list[float], **more: Any) -> dict[str, Any]:
    task, name = metric.split(" ")
    means = [sum(side) / len(side) if side else None for side in (before, after)]
    scores = {"n": len(after), "before": means[0], "after": means[1], "ci95": None, "scores": (before, after)}
    return {"task": task, "metric": name} | scores | more


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    before = [1.0] * (both + lost) + [0.0] * (gained + neither)
    return before, [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither


def decision(gate: dict[str, Any], before: list[float], after: list[float], **more: Any) -> tuple[str, bool]:
    (record,) = decide([gate], [result(gate["metric"], before, after, **more)])
    return record["decision"], record["failed"]


def strict(**rule: Any) -> dict[str, Any]:
    return {"metric": "skills strict"} | rule


def test_a_loss_fails_only_when_it_is_shown_beyond_what_is_tolerated() -> None:
    """n = 600: lost 60, gained 30, so -0.05. One-sided upper bound: (-30 + 1.645·sqrt(91·602 - 900)/602^.5)/602."""
    before, after = outcomes(both=400, lost=60, gained=30, neither=110)
    half = 1.6449 * math.sqrt(91 / 602 - (30 / 602) ** 2) / math.sqrt(602)
    (record,) = decide([strict(not_below_input=0.0)], [result("skills strict", before, after)])
    assert record["bounds95"] == pytest.approx([-30 / 602 - half, -30 / 602 + half], abs=1e-4)
    assert (record["decision"], record["failed"]) == ("worse", True)
    assert record["ci95"] == pytest.approx(list(paired_difference(before, after))[1:])
    assert decision(strict(not_below_input=0.02), before, after) == ("worse", True)  # -0.05 + 0.0256 < -0.02
    assert decision(strict(not_below_input=0.03), before, after) == ("no evidence", False)
    assert decision(strict(not_below_input=0.1), before, after) == ("better", False)


def test_better_than_input_needs_evidence() -> None:
    assert decision(strict(better_than_input=True), *outcomes(300, 10, 40, 50)) == ("better", False)
    assert decision(strict(better_than_input=True), *outcomes(300, 20, 24, 50)) == ("no evidence", True)
    assert decision(strict(better_than_input=True), *outcomes(300, 40, 10, 50)) == ("worse", True)


def test_at_least_fails_when_the_score_is_shown_below_the_bound() -> None:
    """Wilson's interval of 50 of 100 at 90 %: (0.5 ± 1.645·sqrt(0.25/100 + 1.645²/40000)/…) = 0.419 to 0.581."""
    scores = [1.0] * 50 + [0.0] * 50
    assert mean_score(scores, 0.9) == pytest.approx((0.5, 0.4188, 0.5812), abs=1e-4)
    assert decision(strict(at_least=0.41), [], scores) == ("better", False)
    assert decision(strict(at_least=0.55), [], scores) == ("no evidence", False)
    assert decision(strict(at_least=0.59), [], scores) == ("worse", True)


def test_of_a_loss_less_is_better() -> None:
    before = [1.0 + 0.01 * k for k in range(30)]
    after = [loss + 0.1 + 0.001 * (k % 3) for k, loss in enumerate(before)]
    loss = {"metric": "documents loss"}
    assert decision(loss | {"not_below_input": 0.0}, before, after) == ("worse", True)
    assert decision(loss | {"not_below_input": 0.2}, before, after) == ("better", False)
    assert decision(loss | {"better_than_input": True}, after, before) == ("better", False)
    assert decision(loss | {"at_most": 1.0}, before, after) == ("worse", True)
    assert decision(loss | {"at_most": 2.0}, before, after) == ("better", False)


def test_the_interval_is_no_narrower_than_the_measured_noise() -> None:
    """-0.02 with churn 0.02 is shown; not when sampling anew moves the mean by a standard error of 0.02."""
    before, after = outcomes(both=588, lost=12, gained=0, neither=0)
    gate = strict(not_below_input=0.0)
    assert decision(gate, before, after) == ("worse", True)
    assert decision(gate, before, after, noise=0.02) == ("no evidence", False)
    assert decision(gate | {"noise": 0.02}, before, after) == ("no evidence", False)
    assert decision(gate | {"noise": 0.001}, before, after) == ("worse", True)
    half = (with_noise(paired_difference(before, after, 0.9), 0.9, 0.02, 0.03).high + 12 / 602) / 1.6449
    assert half == pytest.approx(math.hypot(0.02, 0.03), abs=1e-3)


def test_what_was_not_measured_fails() -> None:
    gate = strict(not_below_input=0.1)
    (absent,) = decide([gate], [])
    assert (absent["decision"], absent["failed"]) == ("not measured", True)
    unscored = {"task": "skills", "metric": "strict", "n": 0, "before": None, "after": None, "reason": "no template"}
    (impossible,) = decide([gate], [unscored])
    assert impossible["failed"]
    assert "no template" in line(impossible)
    assert decision(gate, [], [1.0] * 20) == ("not measured", True)


def test_too_few_examples_show_nothing() -> None:
    assert decision(strict(not_below_input=0.0), [1.0] * 5, [0.0] * 5) == ("no evidence", False)
    assert decision(strict(better_than_input=True), [0.0] * 5, [1.0] * 5) == ("no evidence", True)
    assert decision(strict(at_least=0.9), [], [0.0] * 5) == ("no evidence", False)


def test_a_line_tells_scores_bounds_and_decision() -> None:
    (record,) = decide([strict(not_below_input=0.0)], [result("skills strict", *outcomes(400, 60, 30, 110))])
    assert line(record) == (
        "skills strict, not_below_input 0: lost, FAILED (0.767 → 0.717 of 600; difference -0.076 to -0.024)"
    )


@pytest.mark.parametrize("churn", [0.01, 0.03, 0.1, 0.2])
def test_at_most_one_in_twenty_harmless_changes_is_stopped(churn: float) -> None:
    random, stopped = Random(1), 0
    for _ in range(600):
        flips = [random.choice((-1, 1)) if random.random() < churn else 0 for _ in range(600)]
        before = [float(flip < 0 or (flip == 0 and random.random() < 0.9)) for flip in flips]
        after = [value + flip for value, flip in zip(before, flips, strict=True)]
        stopped += decision(strict(not_below_input=0.0), before, after)[1]
    assert stopped <= 0.05 * 600 + 2 * math.sqrt(0.05 * 0.95 * 600)


def test_what_can_be_measured_is_what_the_tasks_score(
    model_dir: Path, make_model: Callable[..., Path], open_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    from data.made import rows

    pairs = HeldOut(list(rows("preferences", "eval", 40, 0)))
    some: list[Task] = [
        Skills(HeldOut(list(rows("prompts", "eval", 40, 0))), 4, verifier=VERIFIER),
        LanguageModelling(HeldOut([{"text": "one two"}] * 3)),
        Demonstrations(HeldOut(list(rows("conversations", "eval", 4, 0)))),
        Preferences(pairs),
    ]
    from evaluation.scored_model import load_reward_model

    judge = make_model(tmp_path / "judge", reward=True)
    opened = open_checkpoint(judge, load=lambda path: load_reward_model(path, 0), kind="reward model")
    scored = [(task, open_checkpoint(model_dir)) for task in some] + [(RewardPairs(pairs), opened)]
    for task, checkpoint in scored:
        names = measurable([task], judged=False)
        found = {f"{task.name} {metric}" for metric in task.scores(checkpoint)}
        assert {name for name in names if not name.endswith("*")} <= found
        told = [problem for name in found for problem in problems([{"metric": name}], names, names)]
        assert not [problem for problem in told if "has no result" in problem]
    assert isinstance(some[0], PromptTask)
    assert "reward_model prefers_after" in measurable(some, judged=True)
    assert "reward_model prefers_after" not in measurable([LanguageModelling(pairs)], judged=True)


def test_the_noise_of_sampled_answers_is_measured_by_sampling_anew(
    model_dir: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    from data.made import rows

    problems_ = HeldOut(list(rows("prompts", "eval", 30, 0)))
    tasks: list[Task] = [SampledSkills(problems_, 6, verifier=VERIFIER), Skills(problems_, 6, verifier=VERIFIER)]
    output, metric = make_model(tmp_path / "output", seed=1), "completion_tokens"
    found = evaluate_stage(SFT, model_dir, output, tasks, gated=[f"{task.name} {metric}" for task in tasks])
    by_name = {f"{one['task']} {one['metric']}": one for one in found}
    sampled, greedy = by_name[f"sampled_skills {metric}"], by_name[f"skills {metric}"]
    assert sampled["noise"] > 0
    assert "noise" not in greedy
    assert sampled["n"] == len(sampled["scores"][0]) == len(sampled["scores"][1]) == 30
    assert not [one for one in found if "scores" in one and one["metric"] != metric]
    plain = evaluate_stage(SFT, model_dir, output, tasks)
    assert not [one for one in plain if "scores" in one or "noise" in one]
    assert {name: by_name[f"sampled_skills {metric}"][name] for name in ("before", "after", "ci95")} == {
        name: plain[[f"{one['task']} {one['metric']}" for one in plain].index(f"sampled_skills {metric}")][name]
        for name in ("before", "after", "ci95")
    }
