"""What held-out rows cannot tell: answers beside the wrong questions, exchanged pairs, length alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.confounds import OtherQuestions, WorseAnswers
from evaluation.scored_model import ScoredModel, load_reward_model
from evaluation.task import HeldOut
from evaluation.tasks import Preferences, RewardPairs


def asked(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Say {n}."}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


DEMONSTRATIONS = HeldOut([{"messages": asked(n) + said(f"It is {n}.")} for n in range(30)])
PAIRS = HeldOut([{"prompt": asked(n), "chosen": said(f"It is {n}."), "rejected": said("No.")} for n in range(30)])


def test_an_answer_is_scored_after_its_own_question_and_after_another_one(checkpoint: ScoredModel) -> None:
    (saved,) = OtherQuestions(DEMONSTRATIONS).scores(checkpoint).values()
    assert len(saved) == 30
    alike = HeldOut([{"messages": asked(1) + said("It is 1.")}] * 30)
    assert OtherQuestions(alike).scores(checkpoint)["nats_saved"] == [0.0] * 30


@pytest.mark.parametrize(
    ("saved", "alarmed"),
    [
        ([0.02, -0.02] * 15, True),
        ([-0.1] * 15 + [-0.2] * 15, True),
        ([1.0, 0.5] * 15, False),
        ([0.0, None] * 15, False),  # too few
    ],
)
def test_answers_that_ignore_their_questions_raise_an_alarm(saved: list[Any], alarmed: bool) -> None:
    found = OtherQuestions(DEMONSTRATIONS).alarm({"nats_saved": saved})
    assert (found is not None) == alarmed
    if found:
        assert found[0] == "answers_ignore_questions"
        assert "95 % interval" in found[1]


def test_of_one_question_in_all_rows_nothing_is_said() -> None:
    alike = HeldOut([{"messages": asked(1) + said(f"It is {n}.")} for n in range(30)])
    assert OtherQuestions(alike).alarm({"nats_saved": [0.0] * 30}) is None


def test_worse_answers_are_scored_by_name(
    tmp_path: Path, make_model: Callable[..., Path], open_checkpoint: Callable[..., ScoredModel]
) -> None:
    directory = make_model(tmp_path / "reward", reward=True)
    judge = open_checkpoint(directory, load=lambda path: load_reward_model(path, 2))
    rows = [*PAIRS.rows, {"prompt": asked(99), "chosen": said(""), "rejected": said("No.")}]
    scores = WorseAnswers(HeldOut(rows)).scores(judge)
    assert list(scores) == ["accuracy", "accuracy/empty", "accuracy/cut", "accuracy/repeated", "accuracy/of_another"]
    assert scores["accuracy/empty"][-1] is None  # it is that answer itself
    assert scores["accuracy/of_another"][-1] is not None


@pytest.mark.parametrize(("right", "alarmed"), [(0.25, True), (0.49, True), (0.6, False), (0.99, False)])
def test_a_model_that_takes_worse_answers_raises_an_alarm(right: float, alarmed: bool) -> None:
    scores: dict[str, list[float | None]] = {"accuracy": [right, right + 0.01] * 15}
    scores |= {f"accuracy/{name}": [right] * 30 for name in ("empty", "cut", "repeated", "of_another")}
    found = WorseAnswers(PAIRS).alarm(scores)
    assert (found is not None) == alarmed
    if found:
        assert found[0] == "takes_worse_answers"
        assert "exchanged" in found[1]


@pytest.mark.parametrize(
    ("wins", "way"), [([1.0] * 60, "longer"), ([0.0] * 60, "shorter"), ([1.0, 0.0] * 30, ""), ([1.0] * 10, "")]
)
def test_length_alone_raises_an_alarm(wins: list[Any], way: str) -> None:
    found = RewardPairs(PAIRS).alarm({"longer_wins": wins, "longer_is_right": [1.0] * len(wins)})
    assert (found is not None) == bool(way)
    if found:
        assert found[0] == "length_alone"
        assert f"the {way} answer scores higher in 100%" in found[1]


@pytest.mark.parametrize(("right", "alarmed"), [(0, True), (1, True), (30, False), (60, False)])
def test_pairs_that_a_policy_disputes_raise_an_alarm(right: int, alarmed: bool) -> None:
    scores: list[float | None] = [float(n < right) for n in range(60)]
    found = Preferences(PAIRS).alarm({"accuracy": scores})
    assert (found is not None) == alarmed
    if found:
        assert found[0] == "pairs_against_policy"
